// Threads that are kept from one call of a kernel to the next.
#pragma once

#include <cstddef>

namespace camrt {

// Calls run(work) on the calling thread, and meanwhile on as many as `helpers` kept threads that are free. Returns
// when all of these calls have. The caller never waits for a thread to become free, only for those that have begun:
// whatever run does by itself is done, if need be by the caller alone. So calls may be made from several threads at
// once, and from within each other.
void run_together(std::ptrdiff_t helpers, void (*run)(void*) noexcept, void* work);

}  // namespace camrt
