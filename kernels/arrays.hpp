// NumPy arrays at the boundary, and scratch memory behind it.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>

#include "parallel.hpp"

namespace camrt {

namespace py = pybind11;

// A C-contiguous array of exactly this type. The Python layer makes copies where they are needed; none is made
// here, provided that the argument is declared with noconvert().
template <class T>
using Array = py::array_t<T, py::array::c_style>;
using Indices = Array<std::int64_t>;

inline void require(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(std::string("camrt.kernels._native: ") + what);
}

// Whether every index lies in 0..limit-1.
inline bool within(const Indices& values, Index limit) {
    const std::int64_t* data = values.data();
    for (Index i = 0; i < values.size(); ++i) {
        if (data[i] < 0 || data[i] >= limit) return false;
    }
    return true;
}

// Whether the array is (P, 4) and every half-open box (r0, c0, r1, c1) lies in a rows × columns map.
inline bool boxes_within(const Indices& boxes, Index rows, Index columns) {
    if (boxes.ndim() != 2 || boxes.shape(1) != 4) return false;
    const std::int64_t* box = boxes.data();
    for (Index p = 0; p < boxes.shape(0); ++p, box += 4) {
        if (box[0] < 0 || box[0] >= box[2] || box[2] > rows) return false;
        if (box[1] < 0 || box[1] >= box[3] || box[3] > columns) return false;
    }
    return true;
}

// Uninitialised memory, aligned for the widest vectors.
template <class T>
class Scratch {
public:
    explicit Scratch(Index count)
        : data_(static_cast<T*>(::operator new(static_cast<std::size_t>(count) * sizeof(T), kAlignment))) {}
    T* get() const { return data_.get(); }

private:
    static constexpr std::align_val_t kAlignment{64};
    struct Free {
        void operator()(T* data) const { ::operator delete(data, kAlignment); }
    };
    std::unique_ptr<T, Free> data_;
};

}  // namespace camrt
