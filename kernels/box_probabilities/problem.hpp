// What box_probabilities is asked, and the memory that it works in.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "arrays.hpp"
#include "boxes.hpp"
#include "targets.hpp"

namespace camrt {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

// One softmax asked for: of logits + sign × box, written to out.
template <class T>
struct Direction {
    double sign;
    const T* logits;  // (N, C)
    T* out;           // (N, P, T)
};

// In a pair the signs are opposite.
template <class T>
struct Problem {
    Index images, classes, boxes, targets;
    Grid grid;
    const T* contributions;      // (N, h, w, C)
    const std::int64_t* box;     // (P, 4)
    const std::int64_t* target;  // (N, T)
    int directions;
    Direction<T> direction[2];
    bool table_pays;
};

// What one thread needs for one image.
template <class T>
struct Workspace {
    Scratch<T> powers[2];        // (cells, kBlock): exp(sign × contribution) in each direction
    Scratch<double> block;       // (cells, kBlock)
    Scratch<double> table;       // (corners, kBlock)
    Scratch<double> peaks;       // (cells,): the greatest |contribution| of a class
    double greatest[2];          // the greatest logit in each direction
    Scratch<double> shift[2];    // (P,): what is subtracted from the altered logits of a box
    Scratch<double> total[2];    // (P,): the sum over classes of exp(altered logit - shift)
    std::vector<char> product;   // (P,): whether the box takes the route by products

    explicit Workspace(const Problem<T>& p)
        : powers{Scratch<T>(p.grid.cells() * kBlock), Scratch<T>(p.grid.cells() * kBlock)},
          block(p.grid.cells() * kBlock), table(p.grid.corners() * kBlock), peaks(p.grid.cells()), greatest{},
          shift{Scratch<double>(p.boxes), Scratch<double>(p.boxes)},
          total{Scratch<double>(p.boxes), Scratch<double>(p.boxes)},
          product(static_cast<std::size_t>(p.boxes)) {}
};

// A row of kBlock numbers added up: four to one in T, the rest in double.
template <class T>
CAMRT_INLINE double sum_row(const T* CAMRT_RESTRICT row) {
    T quarter[16];
    double eighth[8];
    for (Index j = 0; j < 16; ++j) quarter[j] = (row[j] + row[j + 16]) + (row[j + 32] + row[j + 48]);
    for (Index j = 0; j < 8; ++j) eighth[j] = static_cast<double>(quarter[j]) + static_cast<double>(quarter[j + 8]);
    return ((eighth[0] + eighth[4]) + (eighth[1] + eighth[5])) + ((eighth[2] + eighth[6]) + (eighth[3] + eighth[7]));
}

}  // namespace camrt
