// The elementwise work of a layer on the CPU, in one pass through its arrays.
// Calls Activation<1>::g(z) and g_prime(z, a).

typedef Activation<1> G;

// z += b, a = g(z). Where a is z, only a is kept.
extern "C" void bias_activation(const Team* team, real* z, const real* b, real* a, int64_t rows,
                                int64_t columns) {
    in_parts(team, rows, 1, rows * columns, [=](int64_t from, int64_t to) {
        for (int64_t r = from; r < to; ++r) {
            real *z_r = z + r * columns, *a_r = a + r * columns;
            INDEPENDENT
            for (int64_t n = 0; n < columns; ++n) {
                const real sum = z_r[n] + b[n];
                z_r[n] = sum;
                a_r[n] = G::g(sum);
            }
        }
    });
}

// delta = dC/da * g', in the place of either if need be; t is a or z, as the derivative wants it.
// dC/db, the column sums of delta, are sums of sums, which have shorter chains of rounding; `sums`
// is room for those of a block. Threads share the columns, so that their number changes no bit.
extern "C" void delta(const Team* team, const real* dC_da, const real* t, real* delta, real* dC_db,
                      real* sums, int64_t rows, int64_t columns) {
    constexpr int64_t BLOCK = 64, CACHE_LINE = 64 / sizeof(real);
    in_parts(team, columns, CACHE_LINE, rows * columns, [=](int64_t from, int64_t to) {
        const int64_t bytes = (to - from) * sizeof(real);
        memset(dC_db + from, 0, bytes);
        for (int64_t first = 0; first < rows; first += BLOCK) {
            memset(sums + from, 0, bytes);
            for (int64_t r = first; r < rows && r < first + BLOCK; ++r) {
                INDEPENDENT
                for (int64_t n = from; n < to; ++n) {
                    const int64_t i = r * columns + n;
                    const real product = dC_da[i] * G::g_prime(t[i], t[i]);
                    delta[i] = product;
                    sums[n] += product;
                }
            }
            for (int64_t n = from; n < to; ++n) dC_db[n] += sums[n];
        }
    });
}
