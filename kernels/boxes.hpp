// Sums over boxes of cells, for a block of up to kBlock features at a time, in double.
//
// A sum is taken directly, or from an integral image: table[r][c] sums the cells above r and left of c, and a
// box is table[r1][c1] - table[r0][c1] - table[r1][c0] + table[r0][c0].
#pragma once

#include <cstdint>

#include "parallel.hpp"
#include "targets.hpp"

namespace camrt {

constexpr Index kBlock = 64;  // features in a block
constexpr Index kGroup = 8;   // their number is rounded up to a multiple of this

struct Box {
    Index r0, c0, r1, c1;

    explicit Box(const std::int64_t* box) : r0(box[0]), c0(box[1]), r1(box[2]), c1(box[3]) {}
    Index area() const { return (r1 - r0) * (c1 - c0); }
};

struct Grid {
    Index rows, columns;

    Index cells() const { return rows * columns; }
    Index corners() const { return (rows + 1) * (columns + 1); }
};

// Boxes up to this area are always added up directly.
constexpr Index kDirectArea = 4;

// Whether building an integral image costs less than adding up all the larger boxes.
inline bool table_pays(Grid grid, const std::int64_t* boxes, Index count) {
    Index additions = 0;
    for (Index p = 0; p < count; ++p) {
        const Index area = Box(boxes + 4 * p).area();
        if (area > kDirectArea) additions += area - kDirectArea;
    }
    return additions > 4 * grid.cells();
}

inline Index lanes_for(Index width) { return (width + kGroup - 1) / kGroup * kGroup; }

// Copies `width` features of every cell, `stride` apart, into block (cells, lanes), zeros after them.
template <class T>
CAMRT_INLINE void copy_block(const T* CAMRT_RESTRICT features, Index cells, Index stride, Index width, Index lanes,
                             double* CAMRT_RESTRICT block) {
    for (Index cell = 0; cell < cells; ++cell, features += stride, block += lanes) {
        for (Index j = 0; j < width; ++j) block[j] = static_cast<double>(features[j]);
        for (Index j = width; j < lanes; ++j) block[j] = 0;
    }
}

// Fills table (rows + 1, columns + 1, lanes) from block (rows, columns, lanes).
CAMRT_INLINE void fill_table(Grid grid, const double* CAMRT_RESTRICT block, Index lanes,
                             double* CAMRT_RESTRICT table) {
    const Index line = (grid.columns + 1) * lanes;
    for (Index i = 0; i < line; ++i) table[i] = 0;
    for (Index r = 0; r < grid.rows; ++r) {
        double* CAMRT_RESTRICT row = table + (r + 1) * line;
        const double* cells = block + r * grid.columns * lanes;
        for (Index j = 0; j < lanes; ++j) row[j] = 0;
        for (Index i = 0; i < grid.columns * lanes; ++i) row[lanes + i] = row[i] + cells[i];
    }
    for (Index r = 1; r < grid.rows; ++r) {
        const double* above = table + r * line;
        double* CAMRT_RESTRICT row = table + (r + 1) * line;
        for (Index i = 0; i < line; ++i) row[i] += above[i];
    }
}

// Sums one box of block (rows, columns, lanes) into sum (lanes), through the table when there is one.
CAMRT_INLINE void sum_box(Grid grid, Box box, const double* block, const double* table, Index lanes,
                          double* CAMRT_RESTRICT sum) {
    if (table != nullptr && box.area() > kDirectArea) {
        const Index line = grid.columns + 1;
        const double* CAMRT_RESTRICT a = table + (box.r1 * line + box.c1) * lanes;
        const double* CAMRT_RESTRICT b = table + (box.r0 * line + box.c1) * lanes;
        const double* CAMRT_RESTRICT c = table + (box.r1 * line + box.c0) * lanes;
        const double* CAMRT_RESTRICT d = table + (box.r0 * line + box.c0) * lanes;
        for (Index j = 0; j < lanes; ++j) sum[j] = (a[j] - b[j]) - (c[j] - d[j]);
        return;
    }
    for (Index j = 0; j < lanes; ++j) sum[j] = 0;
    for (Index r = box.r0; r < box.r1; ++r) {
        for (Index c = box.c0; c < box.c1; ++c) {
            const double* CAMRT_RESTRICT cell = block + (r * grid.columns + c) * lanes;
            for (Index j = 0; j < lanes; ++j) sum[j] += cell[j];
        }
    }
}

}  // namespace camrt
