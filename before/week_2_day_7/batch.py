"""What day 6 of week 2 writes and day 7 changes."""


class Request:
    def try_prefill(self) -> int:
        """Run the model on the whole prompt, in one call.

        The prompt goes through `model(tokens, 0, kv_cache)` as ids `1 x L`; the caches are made by
        `model.create_kv_cache()`. Then `is_prefill_done` is True, `offset` is the number of tokens
        in the caches, and the first token has been sampled and taken (`take_token`).

        Returns:
            The number of tokens processed.

        Raises:
            RuntimeError: the prefill is done already, or the request has ended.
        """
        if self.is_prefill_done or self.is_done:
            raise RuntimeError(f"request {self.prompt_idx} has nothing left to prefill")
        self.kv_cache = self.model.create_kv_cache()
        logits = self.model(mx.array([self.prefill_tokens]), 0, self.kv_cache)
        token = sample(logits[:, -1, :], self.sampler)[0]
        self.offset = len(self.prefill_tokens)
        self.is_prefill_done = True
        self.take_token(token)
        return self.offset


class BatchScheduler:
    def step(self) -> StepOutput:
        """Prefill waiting requests into all free slots, then decode one token for every slot.

        Whoever comes out of the queue (`next_to_prefill`, `dequeue`) is prefilled (`run_chunk`)
        and placed in a slot, unless its first token was its end. No forward pass decodes with an
        empty slot while somebody waits.

        Returns:
            What happened.
        """
        while None in self.slots:
            request = self.next_to_prefill()
            if request is None:
                break
            self.dequeue(request)
            self.run_chunk(request)
            if not request.is_done:
                self.place(request, self.slots.index(None))
        self.handle_decode_phase()
        output, self._output = self._output, StepOutput()
        return output

    def handle_decode_phase(self) -> None:
        """Decode one token for every slot that is taken, in one forward pass.

        The rows are the slots up to the last one that is taken. An empty one among them gets token
        0 at offset 0, and its row of the result is not looked at. Requests that end leave their
        slot.
        """
        if not any(self.slots):
            return
        start = self.clock()
        rows = 1 + max(slot for slot, request in enumerate(self.slots) if request)
        tokens = [request.next_token or 0 if request else 0 for request in self.slots[:rows]]
        offsets = [request.offset if request else 0 for request in self.slots[:rows]]
        logits = self.model(mx.array(tokens)[:, None], offsets, self.kv_cache)
        chosen = sample(logits[:, -1, :], self.sampler)
        for request, token in zip(self.slots[:rows], chosen, strict=True):
            if request is not None:
                self._take_decoded(request, token)
        self._output.decode_seconds += self.clock() - start
