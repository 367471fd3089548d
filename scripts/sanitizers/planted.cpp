// One fault for each sanitizer, which must report it: else its silence about the kernels would mean nothing.
// Each takes numbers from Python, so that no compiler knows whether there will be a fault.
#include <pybind11/pybind11.h>

#include <memory>
#include <thread>

namespace {

// Two threads add to one number; they take turns when `together` is false.
int thread(int times, bool together) {
    int sum = 0;
    const auto add = [&sum, times] {
        for (int i = 0; i < times; ++i) ++sum;
    };
    std::thread one(add);
    if (!together) one.join();
    std::thread other(add);
    if (together) one.join();
    other.join();
    return sum;
}

// One of `count` numbers, which is the one behind them when place is count.
int address(int count, int place) {
    const std::unique_ptr<int[]> numbers(new int[static_cast<std::size_t>(count)]());
    return numbers[static_cast<std::size_t>(place)];
}

// A sum, which overflows when it is too large.
int undefined(int a, int b) { return a + b; }

}  // namespace

PYBIND11_MODULE(_planted, module) {
    module.def("thread", &thread, pybind11::call_guard<pybind11::gil_scoped_release>());
    module.def("address", &address);
    module.def("undefined", &undefined);
}
