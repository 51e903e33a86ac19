// Threads that begin at once.
//
// Linux may leave a new thread on the core of the one that started it for 10 ms and more, though
// others are idle. Threads that wait for each other then take turns: a step of two had the speed of
// one. So a thread is started on any core but that, and may go anywhere as soon as it runs.

#if defined __linux__ && defined __GLIBC__
struct Thread {
    pthread_t id;
    void* (*work)(void*);
    void* argument;
    cpu_set_t allowed;

    static void* run(void* self) {
        const Thread& thread = *static_cast<Thread*>(self);
        sched_setaffinity(0, sizeof thread.allowed, &thread.allowed);
        return thread.work(thread.argument);
    }

    // Returns whether the system gave a thread.
    bool start(void* (*function)(void*), void* given) {
        work = function, argument = given;
        if (sched_getaffinity(0, sizeof allowed, &allowed))  // more cores than the type has room for
            return !pthread_create(&id, nullptr, work, argument);
        cpu_set_t others = allowed;
        CPU_CLR(sched_getcpu(), &others);
        pthread_attr_t attributes;
        pthread_attr_init(&attributes);
        if (CPU_COUNT(&others)) pthread_attr_setaffinity_np(&attributes, sizeof others, &others);
        const bool started = !pthread_create(&id, &attributes, run, this);
        pthread_attr_destroy(&attributes);
        return started || !pthread_create(&id, nullptr, work, argument);  // a sandbox may bind none
    }
    void join() { pthread_join(id, nullptr); }
};
#else
struct Thread {
    pthread_t id;

    bool start(void* (*work)(void*), void* argument) {
        return !pthread_create(&id, nullptr, work, argument);
    }
    void join() { pthread_join(id, nullptr); }
};
#endif
