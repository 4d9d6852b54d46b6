// SwiGLU, element by element: out = silu(gate) * up. A thread computes PER_THREAD neighbours.

int size = gate_shape[0] * gate_shape[1];
int first = thread_position_in_grid.x * PER_THREAD;
int end = min(first + PER_THREAD, size);  // the last thread may have fewer

for (int i = first; i < end; i++) {
    float g = float(gate[i]);
    float u = float(up[i]);
    out[i] = T(g / (1.0f + metal::exp(-g)) * u);
}
