// Threads for one pass through arrays: those of the OpenMP that MKL runs on. They are at hand, and
// when a product is done they go on spinning: threads of our own would wait for their cores. Without
// MKL there is no team.

struct Team {
    void (*parallel)(void (*work)(void*), void* data, unsigned threads, unsigned flags);
    int (*number)();   // of the thread that asks
    int (*count)();    // of the threads that are at work, which may be fewer than were asked for
    int (*allowed)();  // of threads that MKL may have now
};

constexpr int64_t SHARE = 1 << 15;  // numbers: fewer are not worth a thread

template <class Body>
struct Parts {
    const Team& team;
    const Body& body;
    int64_t n, unit;

    static void work(void* data) {
        const NoDenormals mode;
        const Parts& all = *static_cast<const Parts*>(data);
        const int64_t part = all.team.number(), parts = all.team.count();
        all.body(border(all.n, part, parts, all.unit), border(all.n, part + 1, parts, all.unit));
    }
};

// Calls body(from, to) for parts of 0 to n, which are whole units but for the last. All of it is
// work on so many numbers.
template <class Body>
INLINE void in_parts(const Team* team, int64_t n, int64_t unit, int64_t numbers, const Body& body) {
    const NoDenormals mode;
    const int64_t most = team ? team->allowed() : 1;
    int64_t threads = (n + unit - 1) / unit;
    if (threads > numbers / SHARE) threads = numbers / SHARE;
    if (threads > most) threads = most;
    if (threads <= 1) return body(0, n);
    Parts<Body> all{*team, body, n, unit};
    team->parallel(Parts<Body>::work, &all, threads, 0);
}
