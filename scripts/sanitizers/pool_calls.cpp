// Calls parallel_for from several threads at once, within itself, and with exceptions: what no kernel does by itself.
//
//   pool_calls ROUNDS
//
// Every index must be met once, and an exception must reach the caller whose work threw it, and no other one.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "parallel.hpp"

namespace {

using camrt::Index;

constexpr Index kCallers = 6;

// Counts how often each of count × inner indices is met, by calls within a call.
bool nested(Index count, Index inner, Index threads) {
    std::vector<std::atomic<int>> met(static_cast<std::size_t>(count * inner));
    camrt::parallel_for(count, threads, [&](Index begin, Index end) {
        for (Index i = begin; i < end; ++i) {
            camrt::parallel_for(inner, threads, [&](Index from, Index until) {
                for (Index j = from; j < until; ++j) ++met[static_cast<std::size_t>(i * inner + j)];
            });
        }
    });
    for (const std::atomic<int>& times : met) {
        if (times != 1) return false;
    }
    return true;
}

// Numbers that are no atomics: a caller must see what its helpers have written.
bool written(Index count, Index threads) {
    std::vector<Index> squares(static_cast<std::size_t>(count));
    camrt::parallel_for(count, threads, [&](Index begin, Index end) {
        for (Index i = begin; i < end; ++i) squares[static_cast<std::size_t>(i)] = i * i;
    });
    for (Index i = 0; i < count; ++i) {
        if (squares[static_cast<std::size_t>(i)] != i * i) return false;
    }
    return true;
}

bool thrown(Index count, Index threads, Index caller) {
    try {
        camrt::parallel_for(count, threads, [&](Index begin, Index end) {
            if (begin <= count / 2 && count / 2 < end) throw std::runtime_error(std::to_string(caller));
        });
    } catch (const std::runtime_error& error) {
        return error.what() == std::to_string(caller);
    }
    return false;
}

}  // namespace

int main(int count, char** given) {
    const Index rounds = count > 1 ? std::atoi(given[1]) : 100;
    std::atomic<Index> calls{0}, wrong{0};
    std::vector<std::thread> callers;
    for (Index caller = 0; caller < kCallers; ++caller) {
        callers.emplace_back([&, caller] {
            for (Index round = 0; round < rounds; ++round) {
                const Index threads = 1 + (round + caller) % 7, size = 1 + (7 * round + caller) % 90;
                for (const bool right : {nested(size, 1 + size % 11, threads), written(10 * size, threads),
                                         thrown(size, threads, caller)}) {
                    ++calls;
                    if (!right) ++wrong;
                }
            }
        });
    }
    for (std::thread& caller : callers) caller.join();
    if (wrong > 0) {
        std::printf("%td calls of parallel_for were answered wrongly\n", wrong.load());
        return 1;
    }
    std::printf("%td calls of parallel_for by %td threads at once, within each other too, answered rightly\n",
                calls.load(), kCallers);
    return 0;
}
