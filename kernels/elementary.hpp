// exp, log and their kin for the entries' expressions, of `real` (float or double).
//
// No branch and no table: a loop over an array becomes vector instructions, whatever their width,
// with any compiler. Good to a few units in the last place.

#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

// In front of a loop: its arrays may be one and the same, but each turn has entries of its own.
#ifdef __clang__
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define INDEPENDENT _Pragma("GCC ivdep")
#endif

// As long as it lives, what is closer to 0 than any normal number counts as 0, in its thread.
// Processors take a hundred times as long for such numbers, and training makes more and more of
// them: what an optimizer keeps for a node whose gradient has become 0 shrinks, but never gets there.
struct NoDenormals {
#if defined __SSE__
    const unsigned before = __builtin_ia32_stmxcsr();
    NoDenormals() { __builtin_ia32_ldmxcsr(before | 0x8040); }
    ~NoDenormals() { __builtin_ia32_ldmxcsr(before); }
#elif defined __aarch64__
    uint64_t before;
    NoDenormals() {
        asm volatile("mrs %0, fpcr" : "=r"(before));
        asm volatile("msr fpcr, %0" : : "r"(before | 1 << 24));
    }
    ~NoDenormals() { asm volatile("msr fpcr, %0" : : "r"(before)); }
#endif
};

// Where a part of 0 to n begins, and the one before it ends: at a multiple of `unit`, or n.
template <class Index>
INLINE Index border(Index n, Index part, Index parts, Index unit) {
    const Index at = (n + unit - 1) / unit * part / parts * unit;
    return at < n ? at : n;
}

constexpr bool DOUBLE = sizeof(real) == 8;
template <bool wide> struct Integers { typedef uint32_t bits; typedef int32_t whole; };
template <> struct Integers<true> { typedef uint64_t bits; typedef int64_t whole; };
typedef Integers<DOUBLE>::bits bits;
typedef Integers<DOUBLE>::whole whole;

constexpr int MANTISSA = DOUBLE ? 52 : 23;
constexpr int BIAS = DOUBLE ? 1023 : 127;
// x + ROUND has x, rounded, in its low bits.
constexpr real ROUND = DOUBLE ? real(0x1.8p52) : real(0x1.8p23);
constexpr real INFINITE = __builtin_inf();
constexpr real LN2 = real(0.693147180559945309417);
// ln 2 in two parts, of which k times the first is exact.
constexpr real LN2_HIGH = DOUBLE ? real(0x1.62e42fefap-1) : real(0x1.62ep-1);
constexpr real LN2_LOW = DOUBLE ? real(0x1.cf79abc9e3b39p-40) : real(0x1.0bfbe8p-15);

namespace entries {

INLINE real from_bits(bits b) { real x; memcpy(&x, &b, sizeof x); return x; }
INLINE bits to_bits(real x) { bits b; memcpy(&b, &x, sizeof b); return b; }
INLINE real fabs(real x) { return from_bits(to_bits(x) & ~bits(0) >> 1); }
INLINE real fmax(real x, real y) { return x > y || y != y ? x : y; }
INLINE real fmin(real x, real y) { return x < y || y != y ? x : y; }

// The C library's, one number at a time. (Its header would cost a third of the compiler's time.)
#define FROM_C(name) \
    INLINE real name(real x) { return DOUBLE ? __builtin_##name(x) : __builtin_##name##f(x); }
#define FROM_C_2(name)                 \
    INLINE real name(real x, real y) { \
        return DOUBLE ? __builtin_##name(x, y) : __builtin_##name##f(x, y); \
    }
FROM_C(sqrt) FROM_C(cbrt) FROM_C(exp2) FROM_C(log2) FROM_C(log10) FROM_C(erf)
FROM_C(sin) FROM_C(cos) FROM_C(tan) FROM_C(asin) FROM_C(acos) FROM_C(atan)
FROM_C(sinh) FROM_C(cosh) FROM_C(asinh) FROM_C(acosh) FROM_C(atanh)
FROM_C(floor) FROM_C(ceil) FROM_C(trunc) FROM_C(rint)
FROM_C_2(pow) FROM_C_2(fmod) FROM_C_2(hypot) FROM_C_2(atan2) FROM_C_2(copysign)

// c[0] + c[step] x + c[2 step] x^2 + ..., halved again and again: half the latency of Horner's.
template <int count>
INLINE real polynomial(const real* c, real x, int step = 1) {
    if constexpr (count == 1) return c[0];
    else
        return polynomial<(count + 1) / 2>(c, x * x, 2 * step) +
               x * polynomial<count / 2>(c + step, x * x, 2 * step);
}

// x = k ln 2 + r with |r| <= ln(2) / 2: returns e^r - 1, by Taylor's series, and k.
INLINE real reduced_expm1(real x, whole& k) {
    constexpr real c[] = {real(1.0 / 2), real(1.0 / 6), real(1.0 / 24), real(1.0 / 120),
                          real(1.0 / 720), real(1.0 / 5040), real(1.0 / 40320),
                          real(1.0 / 362880), real(1.0 / 3628800), real(1.0 / 39916800),
                          real(1.0 / 479001600), real(1.0 / 6227020800)};
    const real shifted = x * real(1.44269504088896340736) + ROUND;
    const real turns = shifted - ROUND;
    const real r = (x - turns * LN2_HIGH) - turns * LN2_LOW;
    k = whole(to_bits(shifted) - to_bits(ROUND));
    return r + r * r * polynomial<DOUBLE ? 12 : 6>(c, r);
}

INLINE real power_of_2(whole k) { return from_bits((bits(k) + BIAS) << MANTISSA); }

INLINE real exp(real x) {
    whole k;
    const real small = reduced_expm1(x, k);
    const whole half = k >> 1;  // in two factors, for 2^k itself may be out of range
    const real first = power_of_2(half), second = power_of_2(k - half);
    const real e = (small * first + first) * second;
    // Chosen at the end, beside the long way to e, not in front of it. NaN goes through.
    return x > (DOUBLE ? 710 : 89) ? INFINITE : x < (DOUBLE ? -746 : -104) ? real(0) : e;
}

INLINE real expm1(real x) {
    whole k;
    const real small = reduced_expm1(x, k);
    return fabs(x) < LN2 / 2 ? small : exp(x) - 1;
}

INLINE real tanh(real x) {
    const real e = expm1(-2 * fabs(x)), t = -e / (2 + e);
    return x < 0 ? -t : t;
}

// x = 2^k m with m about 1: log x = k ln 2 + 2 artanh s, s = (m - 1) / (m + 1).
INLINE real log(real x) {
    constexpr real c[] = {real(2.0 / 3), real(2.0 / 5), real(2.0 / 7), real(2.0 / 9),
                          real(2.0 / 11), real(2.0 / 13), real(2.0 / 15), real(2.0 / 17),
                          real(2.0 / 19), real(2.0 / 21)};
    constexpr real NORMAL = DOUBLE ? real(0x1p-1022) : real(0x1p-126);
    const bool tiny = x < NORMAL;
    const bits b = to_bits(tiny ? x * real(bits(1) << MANTISSA) : x);
    const whole k = whole(b - to_bits(real(0.70710678118654752440))) >> MANTISSA;
    const real m = from_bits(b - (bits(k) << MANTISSA));
    const real e = from_bits(to_bits(ROUND) + bits(k)) - ROUND - (tiny ? MANTISSA : 0);
    const real s = (m - 1) / (m + 1), s2 = s * s;
    const real near = 2 * s + s * s2 * polynomial<DOUBLE ? 10 : 5>(c, s2);
    const real result = e * LN2_HIGH + (e * LN2_LOW + near);
    const real special = x == 0 ? -INFINITE : x > 0 ? x : real(__builtin_nan(""));
    return x > 0 && x < INFINITE ? result : special;
}

INLINE real log1p(real x) {
    const real w = 1 + x;  // rounding it is made good by the factor (Kahan)
    return w == 1 || w == INFINITE ? x : log(w) * (x / (w - 1));
}

// As special.py, whose coefficients these are: log(erfc(x) / t) + x^2 as a Chebyshev series.
INLINE real erfc(real x) {
    constexpr int count = sizeof ERFC / sizeof *ERFC;
    const real v = fabs(x), t = 2 / (2 + v), u = 4 * t - 2;
    real b0 = 0, b1 = 0;
    for (int i = count - 1; i > 0; --i) {
        const real b = u * b0 - b1 + ERFC[i];
        b1 = b0;
        b0 = b;
    }
    const real upper = t * exp(real(0.5) * u * b0 - b1 + ERFC[0] - v * v);
    return x < 0 ? 2 - upper : upper;
}

}  // namespace entries
