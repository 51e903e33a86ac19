// The loss of a batch and the last layer's delta on the CPU, in one pass through its arrays.
// Calls Loss::term(z, a, y, m) and slope(z, a, y, m), of which m is the number of outputs.

// `terms` is room for those of a row. delta may be a.
extern "C" void output_delta(const real* z, const real* a, const real* y, real* C, real* delta,
                             real* terms, int64_t rows, int64_t columns) {
    const NoDenormals mode;
    const real share = real(1) / rows, m = columns;  // C is an average
    double sum = 0;
    for (int64_t r = 0; r < rows; ++r) {
        INDEPENDENT
        for (int64_t n = 0; n < columns; ++n) {
            const int64_t i = r * columns + n;
            const real z_i = z[i], a_i = a[i], y_i = y[i];
            terms[n] = Loss::term(z_i, a_i, y_i, m);
            delta[i] = Loss::slope(z_i, a_i, y_i, m) * share;
        }
        real C_i = 0;
        for (int64_t n = 0; n < columns; ++n) C_i += terms[n];
        sum += C_i;
    }
    *C = sum / rows;
}
