// Reductions over long rows, each with several running results so that it vectorises.
#pragma once

#include "parallel.hpp"
#include "targets.hpp"

namespace camrt {

template <class T>
struct Range {
    T low, high;
};

// The least and greatest of `count` numbers, at least one. NaN is passed over, unless it comes first.
template <class T>
CAMRT_INLINE Range<T> range_of(const T* CAMRT_RESTRICT values, Index count) {
    constexpr Index kLanes = 32;
    T low[kLanes], high[kLanes];
    for (Index j = 0; j < kLanes; ++j) low[j] = high[j] = values[0];
    Index i = 0;
    for (; i + kLanes <= count; i += kLanes) {
        for (Index j = 0; j < kLanes; ++j) {
            const T value = values[i + j];
            low[j] = value < low[j] ? value : low[j];
            high[j] = value > high[j] ? value : high[j];
        }
    }
    for (; i < count; ++i) {
        low[0] = values[i] < low[0] ? values[i] : low[0];
        high[0] = values[i] > high[0] ? values[i] : high[0];
    }
    for (Index j = 1; j < kLanes; ++j) {
        low[0] = low[j] < low[0] ? low[j] : low[0];
        high[0] = high[j] > high[0] ? high[j] : high[0];
    }
    return {low[0], high[0]};
}

// Whether any value is NaN or infinite.
template <class T>
CAMRT_INLINE bool any_not_finite(const T* CAMRT_RESTRICT values, Index count) {
    constexpr Index kLanes = 32;
    T nothing[kLanes] = {};
    Index i = 0;
    for (; i + kLanes <= count; i += kLanes) {
        for (Index j = 0; j < kLanes; ++j) nothing[j] += values[i + j] * 0;
    }
    for (; i < count; ++i) nothing[0] += values[i] * 0;
    for (Index j = 1; j < kLanes; ++j) nothing[0] += nothing[j];
    return !(nothing[0] == 0);
}

// The inner product of two rows.
template <class T>
CAMRT_INLINE T inner_product(const T* CAMRT_RESTRICT a, const T* CAMRT_RESTRICT b, Index count) {
    constexpr Index kLanes = 16;
    T sum = 0;
    Index i = 0;
    if (count >= kLanes) {
        T lane[kLanes] = {};
        for (; i + kLanes <= count; i += kLanes) {
            for (Index j = 0; j < kLanes; ++j) lane[j] += a[i + j] * b[i + j];
        }
        for (Index half = kLanes / 2; half > 0; half /= 2) {
            for (Index j = 0; j < half; ++j) lane[j] += lane[j + half];
        }
        sum = lane[0];
    }
    for (; i < count; ++i) sum += a[i] * b[i];
    return sum;
}

}  // namespace camrt
