// The streams of a simulated GPU.
//
// What is asked of a stream waits in its queue: until somebody has to wait for it, or for a time
// that is drawn. So what was not waited for, and should have been, shows as a wrong number.
#pragma once
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

struct Stream;
using Work = std::function<void()>;

// All that a stream was asked for until then.
struct Mark {
    Stream* stream;
    long asked;
};

struct Asked {
    Work work;
    std::vector<Mark> after;
};

using Graph = std::vector<Work>;

enum class Mode { global, thread_local_, relaxed };  // as cudaStreamCaptureMode has them

struct Stream {
    bool blocking = true;  // waits for the null stream, and lets it wait
    std::deque<Asked> queue;
    long asked = 0, done = 0;
    std::vector<Mark> after;   // what the next work has to wait for
    Graph* captured = nullptr;
    Mode mode = Mode::global;  // of capturing
    std::thread::id thread;    // that captures
    bool spoilt = false;       // something was asked for that can't be captured
};

enum class Order { early, late, random };

// As cudaError_t has them.
constexpr int OK = 0, NOT_SUPPORTED = 801, UNCAPTURABLE = 900, SPOILT = 901, IMPLICIT = 906;

inline std::recursive_mutex mutex;
using Lock = std::lock_guard<std::recursive_mutex>;

inline Stream null_stream;
inline std::set<Stream*> streams{&null_stream};
inline Order order = Order::early;
inline std::uint64_t random_state = 0;

// Whether a device can read and write there.
inline bool (*reachable)(const void*) = [](const void*) { return true; };

inline unsigned random_below(unsigned bound) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<unsigned>((random_state >> 33) % bound);
}

// 0 and 1 are names of the null stream, 2 is that of a stream of every thread's own.
inline Stream* stream_of(void* handle) {
    const auto name = reinterpret_cast<std::uintptr_t>(handle);
    if (name > 2) return static_cast<Stream*>(handle);
    if (name < 2) return &null_stream;
    static thread_local Stream* own = nullptr;  // stays when its thread ends, with what it was asked
    if (!own) streams.insert(own = new Stream);
    return own;
}

inline void reach(Mark mark) {
    Stream* const stream = mark.stream;
    while (streams.count(stream) && stream->done < mark.asked) {
        const Asked next = std::move(stream->queue.front());
        stream->queue.pop_front();
        ++stream->done;
        for (const Mark& other : next.after) reach(other);
        next.work();
    }
}

// A part of what was asked for, for those who look again and again whether it is done.
inline void go_on(Stream* stream) {
    if (!stream->queue.empty()) reach({stream, stream->done + 1});
}

inline void finish(Stream* stream) { reach({stream, stream->asked}); }

inline void finish_all() {
    for (Stream* stream : std::set<Stream*>(streams)) finish(stream);
}

// What a call answers that waits for the whole device; it spoils what is captured anywhere.
inline int wait_for_all() {
    int answer = OK;
    for (Stream* stream : streams)
        if (stream->captured) stream->spoilt = true, answer = UNCAPTURABLE;
    return answer;
}

// What a call answers that may wait for the device: whoever captures says whom that concerns.
inline int may_wait() {
    int answer = OK;
    for (Stream* stream : streams) {
        const bool mine = stream->mode == Mode::global || stream->thread == std::this_thread::get_id();
        if (stream->captured && stream->mode != Mode::relaxed && mine)
            stream->spoilt = true, answer = UNCAPTURABLE;
    }
    return answer;
}

inline int ask(Stream* stream, Work work) {
    if (stream->captured) {
        stream->captured->push_back(std::move(work));
        return OK;
    }
    if (stream == &null_stream) {
        for (Stream* other : streams) {
            if (other == stream || !other->blocking) continue;
            if (other->captured) return other->spoilt = true, IMPLICIT;
            stream->after.push_back({other, other->asked});
        }
    } else if (stream->blocking) {
        stream->after.push_back({&null_stream, null_stream.asked});
    }
    stream->queue.push_back({std::move(work), std::exchange(stream->after, {})});
    ++stream->asked;
    if (order == Order::early) finish(stream);
    if (order == Order::random)
        for (Stream* other : std::set<Stream*>(streams))
            if (!other->queue.empty() && !random_below(3))
                reach({other, other->done + 1 + random_below(other->queue.size())});
    return OK;
}
