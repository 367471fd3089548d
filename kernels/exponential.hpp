// Exponentials without branches or calls, so that loops over them vectorise.
//
// exp(x) = 2^n exp(r), n the integer nearest to x / ln 2 and r = x - n ln 2, |r| <= ln 2 / 2. Adding 1.5 × 2^23
// (2^52) rounds to an integer and leaves it in the low bits; ln 2 is subtracted in two parts, the first of
// which has few enough bits for n times it to be exact. NaN stays NaN.
#pragma once

#include <bit>
#include <cstdint>

#include "targets.hpp"

namespace camrt {

// Relative error below 1.5e-7. Arguments are clamped to [-87, 88], where neither end leaves float.
CAMRT_INLINE float exponential(float x) {
    constexpr float kRounder = 12582912.0f;
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    const float shifted = x * 1.44269504f + kRounder;
    const float n = shifted - kRounder;
    float r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;  // minimax coefficients of (exp(r) - 1 - r) / r²
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const std::uint32_t power = (std::bit_cast<std::uint32_t>(shifted) + 127u) << 23;
    return p * std::bit_cast<float>(power);
}

// Relative error below 5e-16. Arguments are clamped to 709 from above; the result is 0 below -708.
CAMRT_INLINE double exponential(double x) {
    constexpr double kRounder = 6755399441055744.0;
    constexpr double kLeast = -708.0;
    const bool vanishes = x < kLeast;
    x = vanishes ? kLeast : x;
    x = x > 709.0 ? 709.0 : x;
    const double shifted = x * 1.4426950408889634 + kRounder;
    const double n = shifted - kRounder;
    double r = x - n * 0.693145751953125;
    r = r - n * 1.42860682030941723212e-6;
    double p = 1.0 / 6227020800.0;  // the Taylor series up to r^13
    p = p * r + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r * r + r + 1.0;
    const std::uint64_t power = (std::bit_cast<std::uint64_t>(shifted) + 1023u) << 52;
    const double result = p * std::bit_cast<double>(power);
    return vanishes ? 0.0 : result;
}

}  // namespace camrt
