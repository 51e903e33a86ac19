// An optimizer's step on the CPU, in one pass through the parameters.
// Calls update_one(p, g, s0, s1, learning_rate, decay, c0, c1); SLOTS is the number of its states.

INLINE void update_range(real* p, const real* g, real* s0, real* s1, const real* numbers,
                         real decay, int64_t from, int64_t to) {
    const real learning_rate = numbers[0], c0 = numbers[2], c1 = numbers[3];
    INDEPENDENT
    for (int64_t i = from; i < to; ++i) {
        real none = 0;
        update_one(p[i], g[i], SLOTS > 0 ? s0[i] : none, SLOTS > 1 ? s1[i] : none, learning_rate,
                   decay, c0, c1);
    }
}

// The first `decayed` parameters are weights.
extern "C" void update(const Team* team, real* p, const real* g, real* s0, real* s1,
                       const real* numbers, int64_t size, int64_t decayed) {
    in_parts(team, size, 64, size, [=](int64_t from, int64_t to) {
        const int64_t middle = decayed < from ? from : decayed < to ? decayed : to;
        update_range(p, g, s0, s1, numbers, numbers[1], from, middle);
        update_range(p, g, s0, s1, numbers, 0, middle, to);
    });
}
