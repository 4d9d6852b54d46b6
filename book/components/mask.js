// The logic of <mask-explorer>, without a document, so that it can be tested by itself.
"use strict";

(function mask(book) {
    const LARGEST = 24;

    // The mask as rows of booleans: true is 0 (allowed), false is minus infinity.
    function chunkedMask(start, size, total) {
        return Array.from({ length: size }, (_, row) => (
            Array.from({ length: total }, (_, column) => column <= start + row)
        ));
    }

    // What is wrong with the numbers, in a sentence; "" if nothing is.
    function findProblem(start, size, total) {
        for (const [what, number, least] of [
            ["The chunk's start", start, 0],
            ["The chunk's size", size, 1],
            ["The total length", total, 1],
        ]) {
            if (!Number.isInteger(number) || number < least || number > LARGEST) {
                return `${what} must be a whole number from ${least} to ${LARGEST}.`;
            }
        }
        if (start + size > total) {
            return `The chunk ends at position ${start + size}, beyond the total length of ` +
                `${total}: make the total larger, or the chunk smaller.`;
        }
        return "";
    }

    function range(what, first, last) {
        return first === last ? `${what} ${first}` : `${what}s ${first} to ${last}`;
    }

    // A row of the mask in words.
    function explainRow(row, start, size, total) {
        const position = start + row;
        const parts = [
            `Row ${row} is the token at position ${position}: it sees ${range("key", 0, position)}`
            + (start > 0 ? `, of which ${range("key", 0, start - 1)} ${start > 1 ? "were" : "was"} `
                + "cached by earlier chunks." : "."),
        ];
        const end = start + size;
        if (position + 1 < end) {
            const later = end - 1 - position;
            parts.push(`${range("Column", position + 1, end - 1)} `
                + `${later > 1 ? "are later tokens" : "is a later token"} of this chunk.`);
        }
        if (end < total) {
            parts.push(`${range("Column", end, total - 1)} ${total - end > 1 ? "are" : "is"} not `
                + "filled yet.");
        }
        return parts.join(" ");
    }

    book.mask = { LARGEST, chunkedMask, explainRow, findProblem };
})(globalThis.tinyLlmBook ??= {});
