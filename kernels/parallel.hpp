// Work shared out over the pool's threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <mutex>

#include "pool.hpp"

namespace camrt {

using Index = std::ptrdiff_t;

#ifndef CAMRT_WORK_OF_ONE_THREAD  // sanitized builds set it to 1: the smallest work is shared out there
#define CAMRT_WORK_OF_ONE_THREAD 500'000
#endif

// The number of threads worth waking for `work` elementary operations: a thread costs as much as many.
inline Index useful_threads(Index threads, Index work) {
    constexpr Index kWorkOfOneThread = CAMRT_WORK_OF_ONE_THREAD;
    return std::clamp<Index>(work / kWorkOfOneThread, 1, std::max<Index>(threads, 1));
}

// Calls body(begin, end) for ranges that together cover 0..count-1, on up to `threads` threads, the caller's
// among them. The first exception stops the rest and is thrown again in the caller.
template <class Body>
void parallel_for(Index count, Index threads, const Body& body) {
    const Index workers = std::min(count, threads);
    if (workers <= 1) {
        if (count > 0) body(Index{0}, count);
        return;
    }
    constexpr Index kSharesOfOneThread = 4;
    const Index share = std::max<Index>(1, count / (workers * kSharesOfOneThread));
    std::atomic<Index> next{0};
    std::exception_ptr failure;
    std::mutex failing;
    const auto work = [&]() noexcept {
        try {
            for (Index begin = next.fetch_add(share); begin < count; begin = next.fetch_add(share)) {
                body(begin, std::min(begin + share, count));
            }
        } catch (...) {
            const std::lock_guard<std::mutex> lock(failing);
            if (!failure) failure = std::current_exception();
            next.store(count);
        }
    };
    run_together(
        workers - 1, [](void* shared) noexcept { (*static_cast<decltype(work)*>(shared))(); },
        const_cast<void*>(static_cast<const void*>(&work)));
    if (failure) std::rethrow_exception(failure);
}

}  // namespace camrt
