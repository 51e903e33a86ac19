// The elementwise work of a layer on the CPU, in one pass through its arrays.
// Calls Activation<1>::g(z) and g_prime(z, a).

typedef Activation<1> G;

// z += b, a = g(z). Where a is z, only a is kept.
extern "C" void bias_activation(real* z, const real* b, real* a, int64_t rows, int64_t columns) {
    for (int64_t r = 0; r < rows; ++r, z += columns, a += columns) {
        INDEPENDENT
        for (int64_t n = 0; n < columns; ++n) {
            const real sum = z[n] + b[n];
            z[n] = sum;
            a[n] = G::g(sum);
        }
    }
}

// delta = dC/da * g', in the place of either if need be; t is a or z, as the derivative wants it.
// dC/db, the column sums of delta, are sums of sums, which have shorter chains of rounding; `sums`
// is room for those of a block.
extern "C" void delta(const real* dC_da, const real* t, real* delta, real* dC_db, real* sums,
                      int64_t rows, int64_t columns) {
    constexpr int64_t BLOCK = 64;
    memset(dC_db, 0, columns * sizeof(real));
    for (int64_t first = 0; first < rows; first += BLOCK) {
        memset(sums, 0, columns * sizeof(real));
        for (int64_t r = first; r < rows && r < first + BLOCK; ++r) {
            INDEPENDENT
            for (int64_t n = 0; n < columns; ++n) {
                const int64_t i = r * columns + n;
                const real product = dC_da[i] * G::g_prime(t[i], t[i]);
                delta[i] = product;
                sums[n] += product;
            }
        }
        for (int64_t n = 0; n < columns; ++n) dC_db[n] += sums[n];
    }
}
