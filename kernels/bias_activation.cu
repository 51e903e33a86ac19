// Bias and activation in one pass over z: z += b, a = g(z).
// Calls g(z). z_out is null where z need not be kept; a may be z.

extern "C" __global__ void bias_activation(const real* z, const real* b, real* z_out, real* a,
                                           index_t size, int columns) {
    for (Walk at(columns); at.i < size; at.next()) {
        const real z_i = z[at.i] + b[at.column];
        if (z_out) z_out[at.i] = z_i;
        a[at.i] = g(z_i);
    }
}
