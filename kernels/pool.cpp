// The kept threads: one pool for the process, made when it is first needed.
//
// A call that wants helpers is entered in a list; threads that wait take the first entry, at most as many as it wants.
// When the caller has done its part it takes its entry out, so that nobody can join any more, and waits for those who
// have: they wait for no one but for calls made deeper within, so this ends.
#include "pool.hpp"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>

#if !defined(_WIN32)
#include <pthread.h>
#include <signal.h>
#endif
#if defined(__linux__)
#include <sched.h>
#endif

namespace camrt {
namespace {

using Index = std::ptrdiff_t;

// On what processors a thread may run. Helpers go where their caller may, as threads do that a caller starts itself.
class Processors {
public:
    static Processors of_this_thread() {
        Processors found;
#if defined(__linux__)
        found.known_ = sched_getaffinity(0, sizeof found.set_, &found.set_) == 0;
#endif
        return found;
    }

    // Moves the calling thread, which is allowed to run on `current`, to these.
    void move_here(Processors& current) const {
#if defined(__linux__)
        if (!known_ || (current.known_ && CPU_EQUAL(&set_, &current.set_))) return;
        if (sched_setaffinity(0, sizeof set_, &set_) == 0) current = *this;
#else
        static_cast<void>(current);
#endif
    }

private:
#if defined(__linux__)
    cpu_set_t set_{};
    bool known_ = false;
#endif
};

// While it lives, threads that are started leave the process's signals to other threads: a program that blocks one in
// all of its threads, to wait for it in one, does not know of these. What a thread brings upon itself it gets.
class SignalsElsewhere {
public:
    SignalsElsewhere() {
#if !defined(_WIN32)
        sigset_t all;
        sigfillset(&all);
        for (const int own : {SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP}) sigdelset(&all, own);
        pthread_sigmask(SIG_SETMASK, &all, &before_);
#endif
    }
    ~SignalsElsewhere() {
#if !defined(_WIN32)
        pthread_sigmask(SIG_SETMASK, &before_, nullptr);
#endif
    }
    SignalsElsewhere(const SignalsElsewhere&) = delete;
    SignalsElsewhere& operator=(const SignalsElsewhere&) = delete;

private:
#if !defined(_WIN32)
    sigset_t before_;
#endif
};

// A call that wants helpers. It lives in its caller's frame; the pool's mutex guards it.
struct Call {
    void (*run)(void*) noexcept;
    void* work;
    Processors processors;
    Index wanted;      // how many more may join
    Index joined = 0;  // how many are at it
    std::condition_variable left{};
    Call* next = nullptr;
};

class Pool {
public:
    void run(Call& call) {
        const Index helpers = call.wanted;
        Index woken = 0;
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            demand_ += helpers;
            start_threads();
            woken = std::min(helpers, threads_);
            *last_ = &call;
            last_ = &call.next;
        }
        for (Index i = 0; i < woken; ++i) wanted_.notify_one();
        call.run(call.work);
        std::unique_lock<std::mutex> lock(mutex_);
        demand_ -= helpers;
        if (call.wanted > 0) take_out(call);
        call.left.wait(lock, [&] { return call.joined == 0; });
    }

private:
    // As many threads as are wanted at once, but no more than the machine has processors. Machines may not say how
    // many they have, and small ones may be told to use more: sixteen in all, the caller's among them, are always had.
    void start_threads() {
        const Index processors = static_cast<Index>(std::thread::hardware_concurrency());
        const Index most = std::min(demand_, std::max<Index>(processors, 16) - 1);
        if (threads_ >= most) return;
        const SignalsElsewhere elsewhere;
        try {
            for (; threads_ < most; ++threads_) std::thread([this] { serve(); }).detach();
        } catch (const std::exception&) {
            // The system has no more threads, or no memory for one: those that there are do all the work.
        }
    }

    void take_out(Call& call) {
        Call** link = &first_;
        while (*link != &call) link = &(*link)->next;
        *link = call.next;
        if (last_ == &call.next) last_ = link;
    }

    [[noreturn]] void serve() {
        Processors own = Processors::of_this_thread();
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            wanted_.wait(lock, [this] { return first_ != nullptr; });
            Call& call = *first_;
            ++call.joined;
            if (--call.wanted == 0) take_out(call);
            lock.unlock();
            call.processors.move_here(own);
            call.run(call.work);
            lock.lock();
            if (--call.joined == 0) call.left.notify_one();  // with the lock held: then the call may be gone
        }
    }

    std::mutex mutex_;
    std::condition_variable wanted_;
    Call* first_ = nullptr;  // the list of calls that may be joined,
    Call** last_ = &first_;  // and where the next one is entered
    Index demand_ = 0;       // helpers wanted by all the calls that are being made
    Index threads_ = 0;
};

// A pool is never freed, and its threads are never joined. When the process ends they wait for work that does not
// come, or work for a thread that has been left behind as they are; the system ends them. A destructor would have to
// wait for them while the process's objects are being destroyed, and on Windows for threads that are gone by then.
std::atomic<Pool*> the_pool{nullptr};

Pool& pool() {
    Pool* found = the_pool.load(std::memory_order_acquire);
    if (found == nullptr) {
        Pool* const made = new Pool;
        if (the_pool.compare_exchange_strong(found, made, std::memory_order_acq_rel)) return *made;
        delete made;  // another thread was first
    }
    return *found;
}

#if !defined(_WIN32)
// A child has none of its parent's threads but the one that forked, and a lock that another one held is never let go
// of there. It makes a pool of its own when it needs one. What it was left of its parent's is not touched again.
const int kAtFork = pthread_atfork(nullptr, nullptr, [] { the_pool.store(nullptr, std::memory_order_release); });
#endif

}  // namespace

void run_together(std::ptrdiff_t helpers, void (*run)(void*) noexcept, void* work) {
    if (helpers <= 0) return run(work);
    Call call{run, work, Processors::of_this_thread(), helpers};
    pool().run(call);
}

}  // namespace camrt
