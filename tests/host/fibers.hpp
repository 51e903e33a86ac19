// The threads of one CUDA block as fibers on one CPU core.
//
// Each thread runs until it waits for others, so the only orders seen are those that a barrier, a
// warp collective or an atomic allows: a missing barrier shows as a wrong number, and a barrier
// that some threads never reach shows as an error, not as a hang.
//
// The C++ standard headers are left out on purpose: they are most of the compile time, and their
// names are not there in CUDA either, for a source without #include.
#include <link.h>
#include <setjmp.h>
#include <signal.h>
#include <ucontext.h>

// Unnamed: two loaded libraries must never share a template's static variables.
namespace {

struct uint3 { unsigned x, y, z; };
uint3 threadIdx, blockIdx, blockDim, gridDim;

namespace host {

using Byte = unsigned char;
using Word = unsigned long long;

constexpr unsigned max_threads = 1024, lanes = 32;
constexpr Word shared_limit = 227 << 10, shared_guard = 1 << 10;
constexpr Byte poison = 0xFF;   // repeated, it is a NaN in both precisions and -1 in any integer
// Not a power of two: equal offsets in all stacks would compete for a few lines of the cache.
constexpr Word stack_bytes = (64 << 10) + 192;

struct Fiber { jmp_buf point; bool entered; };

struct Thread {
    uint3 index;
    Fiber* fiber;               // null until the thread first waits
    const char* waits_in;       // null unless waiting
    int line;
    unsigned mask, group;       // lanes called for, and those of them that took part
    Word value;
    bool returned;
};

struct Warp {
    unsigned live, waiting;
    Word seen[lanes];           // what each lane brought to its last collective
};

alignas(16) Byte stacks[max_threads][stack_bytes];
alignas(256) Byte dynamic_shared[shared_limit + shared_guard];
Fiber fibers[max_threads], main_fiber{{}, true};
Fiber* idle[max_threads];
Thread threads[max_threads], *ready[max_threads], *current;
Warp warps[max_threads / lanes];
Fiber* running;
unsigned size, idle_count, ready_count, arrived, returned;
bool shuffled;                  // threads in random order
Word random_state;
void (*body)();
const void* const* slots;
char failure[1024];

unsigned random_below(unsigned bound) {                      // splitmix64
    Word z = random_state += 0x9E3779B97F4A7C15;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return static_cast<unsigned>((z >> 33) % bound);
}

// ---- fibers: makecontext only starts one, since swapcontext costs two system calls a switch ----

void fiber_main();

[[noreturn]] void enter(Fiber& fiber) {
    if (fiber.entered) _longjmp(fiber.point, 1);
    fiber.entered = true;
    ucontext_t fresh;
    getcontext(&fresh);
    fresh.uc_stack.ss_sp = stacks[&fiber - fibers];
    fresh.uc_stack.ss_size = stack_bytes;
    fresh.uc_link = nullptr;
    makecontext(&fresh, fiber_main, 0);
    setcontext(&fresh);
    __builtin_unreachable();
}

__attribute__((noinline)) void switch_fiber(Fiber& from, Fiber& to) {
    running = &to;
    if (!_setjmp(from.point)) enter(to);
    asm volatile("" ::: "memory");
}

void reset_fibers() {
    for (idle_count = 0; idle_count < max_threads; ++idle_count) {
        fibers[idle_count].entered = false;
        idle[max_threads - 1 - idle_count] = &fibers[idle_count];
    }
}

template <class... Values>
void report(const char* format, Values... values) {
    const int used = __builtin_snprintf(failure, sizeof failure, "block (%u, %u, %u): ",
                                        blockIdx.x, blockIdx.y, blockIdx.z);
    __builtin_snprintf(failure + used, sizeof failure - used, format, values...);
}

// Abandons the block from within one of its threads.
template <class... Values>
[[noreturn]] void fail(const char* format, Values... values) {
    report(format, values...);
    _longjmp(main_fiber.point, 1);
}

void on_fault(int signal, siginfo_t* info, void*) {
    if (signal == SIGFPE)
        fail("thread (%u, %u, %u) divides an integer by zero", threadIdx.x, threadIdx.y,
             threadIdx.z);
    fail("thread (%u, %u, %u) touches memory at %p, which no argument has", threadIdx.x,
         threadIdx.y, threadIdx.z, info->si_addr);
}

// ---- the schedule ------------------------------------------------------------------------------

void wake(Thread& thread) {
    thread.waits_in = nullptr;
    ready[ready_count++] = &thread;
}

// Moves to the fiber of the next thread that can run, to main_fiber if there is none. A fiber with
// no suspended thread on it runs thread after thread: without a barrier there is no switch at all.
void dispatch(bool suspended) {
    Fiber* const here = running;
    if (shuffled && ready_count > 1) {
        Thread*& chosen = ready[random_below(ready_count)];
        Thread* const last = ready[ready_count - 1];
        ready[ready_count - 1] = chosen;
        chosen = last;
    }
    current = ready_count ? ready[--ready_count] : nullptr;
    Fiber* const target = !current         ? &main_fiber
                          : current->fiber ? current->fiber
                          : suspended      ? idle[--idle_count]
                                           : here;
    if (target == here) return;
    if (!suspended) idle[idle_count++] = here;
    switch_fiber(*here, *target);
}

void suspend() {
    Thread* const self = current;
    self->fiber = running;
    dispatch(true);
    threadIdx = self->index;
}

// Lets other threads in where an atomic or a fence says that they may be looking.
void preempt() {
    if (!shuffled) return;
    wake(*current);
    suspend();
}

void wait_in(const char* name, int line, unsigned mask) {
    current->waits_in = name;
    current->line = line;
    current->mask = mask;
}

bool same_call(const Thread& a, const Thread& b) {
    return a.waits_in == b.waits_in && a.line == b.line && a.mask == b.mask;
}

void barrier(const char* name, int line) {
    wait_in(name, line, 0);
    unsigned alike = 0;
    if (++arrived == size)
        while (alike < size && same_call(threads[alike], *current)) ++alike;
    if (alike == size) {
        arrived = 0;
        for (unsigned t = size; t-- > 0;) wake(threads[t]);
    }
    suspend();
}

// Wakes the lanes that wait with `leader`, if all that it waits for are there. Lanes that returned
// are not waited for, as on a GPU.
void release(Warp& warp, Thread* lane_threads, const Thread& leader) {
    const unsigned group = leader.mask & warp.live;
    if (group & ~warp.waiting) return;
    for (unsigned lane = 0; lane < lanes; ++lane)
        if (group >> lane & 1 && !same_call(lane_threads[lane], leader)) return;
    warp.waiting &= ~group;
    for (unsigned lane = lanes; lane-- > 0;)
        if (group >> lane & 1) {
            // Copied before any lane goes on, as it may bring its next value before this is read.
            warp.seen[lane] = lane_threads[lane].value;
            lane_threads[lane].group = group;
            wake(lane_threads[lane]);
        }
}

// Waits for the lanes of the mask; returns those that came, whose values are then in `seen`.
unsigned meet(const char* name, unsigned mask, Word value, int line) {
    Thread* const self = current;
    const unsigned id = self - threads, lane = id % lanes;
    if (!(mask >> lane & 1))
        fail("thread (%u, %u, %u) calls %s() on line %d with mask 0x%08x, which leaves it out",
             threadIdx.x, threadIdx.y, threadIdx.z, name, line, mask);
    wait_in(name, line, mask);
    self->value = value;
    warps[id / lanes].waiting |= 1u << lane;
    release(warps[id / lanes], self - lane, *self);
    suspend();
    return self->group;
}

void finish() {
    const unsigned id = current - threads, lane = id % lanes;
    Warp& warp = warps[id / lanes];
    current->returned = true;
    ++returned;
    warp.live &= ~(1u << lane);
    Thread* const lane_threads = current - lane;
    for (unsigned other = 0; warp.waiting && other < lanes; ++other)
        if (warp.waiting >> other & 1) release(warp, lane_threads, lane_threads[other]);
}

void fiber_main() {
    for (;;) {
        threadIdx = current->index;
        body();
        finish();
        dispatch(false);
    }
}

// ---- what went wrong --------------------------------------------------------------------------

void describe(const Thread& thread, char* out, unsigned room) {
    const int used = __builtin_snprintf(out, room, "thread (%u, %u, %u) ", thread.index.x,
                                        thread.index.y, thread.index.z);
    if (thread.returned)
        __builtin_snprintf(out + used, room - used, "has returned");
    else
        __builtin_snprintf(out + used, room - used,
                           thread.mask ? "waits in %s() on line %d with mask 0x%08x"
                                       : "waits in %s() on line %d",
                           thread.waits_in, thread.line, thread.mask);
}

void report_divergence() {
    for (unsigned a = 0; a < size; ++a)
        for (unsigned b = 0; b < size && threads[a].waits_in; ++b) {
            const unsigned mask = threads[a].mask;
            const bool awaited = !mask || (a / lanes == b / lanes && mask >> b % lanes & 1 &&
                                           !threads[b].returned);
            if (!awaited || same_call(threads[a], threads[b])) continue;
            char one[160], other[160];
            describe(threads[a], one, sizeof one);
            describe(threads[b], other, sizeof other);
            return report("threads diverge: %s, but %s", one, other);
        }
}

}  // namespace host
}  // namespace
