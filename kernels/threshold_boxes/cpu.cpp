// best_overlaps and largest_boxes: see reference.py, which defines them, and README.md for how they are found.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

#include "arrays.hpp"

namespace camrt {
namespace {

constexpr int kLevels = 256;
using Byte = std::uint8_t;
using Place = std::int32_t;  // a row and, in the lower bits, a column
constexpr int kColumnBits = 15;
constexpr Place kColumnMask = (Place{1} << kColumnBits) - 1;

struct Box {
    std::int64_t x0, y0, x1, y1;

    std::int64_t area() const { return (x1 - x0 + 1) * (y1 - y0 + 1); }
};

// First and last row and column of a component.
struct Span {
    std::int32_t top, left, bottom, right;

    void join(const Span& other) {
        top = std::min(top, other.top);
        left = std::min(left, other.left);
        bottom = std::max(bottom, other.bottom);
        right = std::max(right, other.right);
    }
    // The box of the contour, `by` pixels out on every side, and the last row and column one further.
    Box box(Index height, Index width, int by) const {
        return {left - by, top - by, std::min<std::int64_t>(right + by + 1, width - 1),
                std::min<std::int64_t>(bottom + by + 1, height - 1)};
    }
};

double best_of(const Box& box, const Box* others, Index count) {
    double best = 0;
    for (Index i = 0; i < count; ++i) {
        const Box& other = others[i];
        const std::int64_t wide = std::min(box.x1, other.x1) - std::max(box.x0, other.x0) + 1;
        const std::int64_t tall = std::min(box.y1, other.y1) - std::max(box.y0, other.y0) + 1;
        if (wide <= 0 || tall <= 0) continue;
        const std::int64_t common = wide * tall;
        best = std::max(best, static_cast<double>(common) / static_cast<double>(box.area() + other.area() - common));
    }
    return best;
}

// The components of all thresholds of one map, from one pass over its pixels in the order of their values.
// `Holes`: the components of {map <= t}, as t rises; otherwise those of {map > t}, as t falls.
template <bool Holes>
class Components {
public:
    Components(Index height, Index width)
        : height_(height), width_(width), label_(static_cast<std::size_t>((height + 2) * (width + 2))) {}

    // `order` lists the pixels by value, `starts` says where each value begins. Raises best[t] to the overlap
    // of every contour that exists at t.
    void run(const std::vector<Place>& order, const std::array<std::int32_t, kLevels + 1>& starts,
             const Box* boxes, Index count, double* best) {
        std::fill(label_.begin(), label_.end(), kNone);
        root_.clear();
        next_.clear();
        parts_.clear();
        best_ = best;
        for (int step = 0; step < kLevels; ++step) {
            const int level = Holes ? step : kLevels - 1 - step;
            if (!Holes && level == 0) break;  // nothing is below no threshold
            const std::int32_t begin = starts[at(level)], end = starts[at(level + 1)];
            if (begin == end) continue;
            changed_.clear();
            for (std::int32_t i = begin; i < end; ++i) add(order[at(i)], level);
            for (const std::int32_t id : changed_) {
                if (root_[at(id)] == id) close(parts_[at(id)], level, boxes, count);
            }
        }
        for (std::size_t id = 0; id < parts_.size(); ++id) {
            if (root_[id] == static_cast<std::int32_t>(id)) settle(parts_[id], Holes ? kLevels : 0);
        }
    }

private:
    static constexpr std::int32_t kNone = -1;
    static constexpr std::int32_t kChanging = -1;

    struct Part {
        Span span;
        std::int32_t since;   // the first threshold it lives at, kChanging while it grows
        std::int32_t labels;  // how many labels its pixels have
        double overlap;
    };

    template <class I>
    static std::size_t at(I i) { return static_cast<std::size_t>(i); }

    static std::int32_t greatest(std::int32_t a, std::int32_t b, std::int32_t c, std::int32_t d) {
        return std::max(std::max(a, b), std::max(c, d));
    }
    static std::uint32_t least(std::int32_t a, std::int32_t b, std::int32_t c, std::int32_t d) {
        const auto plain = [](std::int32_t x) { return static_cast<std::uint32_t>(x); };
        return std::min(std::min(plain(a), plain(b)), std::min(plain(c), plain(d)));
    }

    // Makes one component of two, and says which of them remains. All labels of the smaller one are renamed, so
    // that the component of a label is one look-up: there are few merges, and many pixels.
    std::int32_t merge(std::int32_t one, std::int32_t other) {
        if (parts_[at(one)].labels < parts_[at(other)].labels) std::swap(one, other);
        std::int32_t id = other;
        do {
            root_[at(id)] = one;
            id = next_[at(id)];
        } while (id != other);
        std::swap(next_[at(one)], next_[at(other)]);  // two rings of labels become one
        parts_[at(one)].labels += parts_[at(other)].labels;
        parts_[at(one)].span.join(parts_[at(other)].span);
        return one;
    }

    // Enters the overlap of a component that is about to change at `level`, for every threshold it lived at.
    void settle(Part& part, int level) {
        if (part.since == kChanging) return;
        if (part.overlap > 0) {
            const int low = Holes ? part.since : level, high = Holes ? level - 1 : part.since;
            for (int t = low; t <= high; ++t) best_[t] = std::max(best_[t], part.overlap);
        }
        part.since = kChanging;
    }

    void open(std::int32_t id, int level) {
        Part& part = parts_[at(id)];
        if (part.since == kChanging) return;
        settle(part, level);
        changed_.push_back(id);
    }

    void add(Place place, int level) {
        const std::int32_t row = place >> kColumnBits, column = place & kColumnMask;
        const Index wide = width_ + 2;
        std::int32_t* here = label_.data() + (row + 1) * wide + column + 1;
        // The greatest and, as unsigned numbers, the least label around: nearly always one component's, or none.
        const std::int32_t up = here[-wide], left = here[-1], right = here[1], down = here[wide];
        std::int32_t root = greatest(up, left, right, down);
        std::uint32_t fewest = least(up, left, right, down);
        if constexpr (!Holes) {
            const std::int32_t nw = here[-wide - 1], ne = here[-wide + 1], sw = here[wide - 1], se = here[wide + 1];
            root = std::max(root, greatest(nw, ne, sw, se));
            fewest = std::min(fewest, least(nw, ne, sw, se));
        }
        if (root == kNone) {
            root = static_cast<std::int32_t>(parts_.size());
            root_.push_back(root);
            next_.push_back(root);
            parts_.push_back({{row, column, row, column}, kChanging, 1, 0});
            changed_.push_back(root);
            *here = root;
            return;
        }
        const bool alone = fewest == static_cast<std::uint32_t>(root);
        root = root_[at(root)];
        open(root, level);
        if (!alone) {
            for (const Index step : {-wide, Index{-1}, Index{1}, wide, -wide - 1, -wide + 1, wide - 1, wide + 1}) {
                if (Holes && step != 1 && step != -1 && step != wide && step != -wide) break;
                const std::int32_t label = here[step];
                if (label == kNone) continue;
                const std::int32_t other = root_[at(label)];
                if (other == root) continue;
                open(other, level);
                root = merge(root, other);
            }
        }
        parts_[at(root)].span.join({row, column, row, column});
        *here = root;
    }

    // Notes the overlap that a component has from this level on.
    void close(Part& part, int level, const Box* boxes, Index count) {
        const Span& span = part.span;
        const bool outside = Holes && (span.top == 0 || span.left == 0 || span.bottom == height_ - 1 ||
                                       span.right == width_ - 1);
        part.overlap = outside ? 0 : best_of(span.box(height_, width_, Holes ? 1 : 0), boxes, count);
        part.since = Holes ? level : level - 1;
    }

    Index height_, width_;
    std::vector<std::int32_t> label_;  // of every pixel, with a frame around the map
    std::vector<std::int32_t> root_;  // of every label: its component
    std::vector<std::int32_t> next_;  // the rings of the labels of each component
    std::vector<Part> parts_;
    std::vector<std::int32_t> changed_;
    double* best_ = nullptr;
};

// Lists the pixels by value, and where each value begins.
int sort_pixels(const Byte* map, Index height, Index width, std::vector<Place>& order,
                std::array<std::int32_t, kLevels + 1>& starts) {
    starts.fill(0);
    for (Index i = 0; i < height * width; ++i) ++starts[static_cast<std::size_t>(map[i]) + 1];
    for (std::size_t v = 0; v < kLevels; ++v) starts[v + 1] += starts[v];
    std::array<std::int32_t, kLevels> next;
    std::copy_n(starts.begin(), kLevels, next.begin());
    int highest = 0;
    for (Index r = 0; r < height; ++r) {
        const auto row = static_cast<Place>(r << kColumnBits);
        for (Index c = 0; c < width; ++c, ++map) {
            order[static_cast<std::size_t>(next[*map]++)] = row | static_cast<Place>(c);
            highest = std::max<int>(highest, *map);
        }
    }
    return highest;
}

void best_overlaps(const Array<Byte>& maps, const Indices& boxes, const Indices& starts, Array<double>& best,
                   Index threads) {
    require(maps.ndim() == 3 && boxes.ndim() == 2 && boxes.shape(1) == 4, "wrong shapes");
    const Index count = maps.shape(0), height = maps.shape(1), width = maps.shape(2);
    require(height > 0 && width > 0 && height <= kColumnMask && width <= kColumnMask, "maps of a wrong size");
    require(starts.size() == count + 1 && best.ndim() == 2 && best.shape(0) == count && best.shape(1) == kLevels,
            "wrong shapes");
    const std::int64_t* from = starts.data();
    for (Index n = 0; n < count; ++n) require(from[n] >= 0 && from[n] <= from[n + 1], "starts must not fall");
    require(from[0] == 0 && from[count] == boxes.shape(0), "starts must span the boxes");
    std::vector<Box> all(static_cast<std::size_t>(boxes.shape(0)));
    for (std::size_t i = 0; i < all.size(); ++i) {
        const std::int64_t* row = boxes.data() + 4 * i;
        all[i] = {row[0], row[1], row[2], row[3]};
    }
    const Byte* data = maps.data();
    double* to = best.mutable_data();
    const py::gil_scoped_release release;
    const Index pixels = height * width;
    parallel_for(count, useful_threads(threads, count * pixels * 50), [&](Index begin, Index end) {
        Components<false> regions(height, width);
        Components<true> holes(height, width);
        std::vector<Place> order(static_cast<std::size_t>(pixels));
        std::array<std::int32_t, kLevels + 1> values;
        for (Index n = begin; n < end; ++n) {
            const Box* own = all.data() + from[n];
            const Index number = from[n + 1] - from[n];
            double* row = to + n * kLevels;
            std::fill_n(row, kLevels, 0.0);
            const int highest = sort_pixels(data + n * pixels, height, width, order, values);
            regions.run(order, values, own, number, row);
            holes.run(order, values, own, number, row);
            // From the highest value on nothing is above the threshold.
            std::fill(row + highest, row + kLevels, best_of({0, 0, 0, 0}, own, number));
        }
    });
}

// The largest outer contour at one threshold. What cannot be reached from outside over steps along rows and
// columns is filled; a filled component encloses one unit for each square of four of its pixels, and half a
// unit for each of three.
class Largest {
public:
    Largest(Index height, Index width)
        : height_(height), width_(width), padded_(width + 2),
          label_(static_cast<std::size_t>((height + 2) * (width + 2))) {}

    Box find(const Byte* map, int level) {
        outside(map, level);
        Box best{0, 0, 0, 0};
        double most = -1;
        for (Index r = 1; r <= height_; ++r) {
            for (Index c = 1; c <= width_; ++c) {
                if (label_[at(r * padded_ + c)] != kInside) continue;
                Span span;
                const double area = component(r * padded_ + c, span);
                if (area >= most) {
                    most = area;
                    best = span.box(height_, width_, 0);
                }
            }
        }
        return best;
    }

private:
    enum : Byte { kInside = 0, kOutside = 1, kSeen = 2 };
    static std::size_t at(Index i) { return static_cast<std::size_t>(i); }

    void outside(const Byte* map, int level) {
        std::fill(label_.begin(), label_.end(), Byte{kInside});
        waiting_.assign(1, 0);
        label_[0] = kOutside;
        const Index rows = height_ + 2;
        while (!waiting_.empty()) {
            const Index p = waiting_.back();
            waiting_.pop_back();
            const Index r = p / padded_, c = p % padded_;
            const auto visit = [&](Index row, Index column) {
                if (row < 0 || column < 0 || row >= rows || column >= padded_) return;
                const Index q = row * padded_ + column;
                if (label_[at(q)] != kInside) return;
                const bool frame = row == 0 || column == 0 || row == rows - 1 || column == padded_ - 1;
                if (!frame && map[(row - 1) * width_ + column - 1] > level) return;
                label_[at(q)] = kOutside;
                waiting_.push_back(q);
            };
            visit(r - 1, c);
            visit(r + 1, c);
            visit(r, c - 1);
            visit(r, c + 1);
        }
    }

    // Marks a filled component as seen; its span, and the area that its border encloses.
    double component(Index start, Span& span) {
        const auto place = [&](Index p) {
            return Span{static_cast<std::int32_t>(p / padded_ - 1), static_cast<std::int32_t>(p % padded_ - 1),
                        static_cast<std::int32_t>(p / padded_ - 1), static_cast<std::int32_t>(p % padded_ - 1)};
        };
        span = place(start);
        label_[at(start)] = kSeen;
        waiting_.assign(1, start);
        double area = 0;
        while (!waiting_.empty()) {
            const Index p = waiting_.back();
            waiting_.pop_back();
            span.join(place(p));
            for (Index down = -1; down <= 1; ++down) {
                for (Index right = -1; right <= 1; ++right) {
                    const Index q = p + down * padded_ + right;
                    if (label_[at(q)] != kInside) continue;
                    label_[at(q)] = kSeen;
                    waiting_.push_back(q);
                }
            }
            // Each pixel answers for its share of the four squares that it is a corner of.
            for (const Index down : {-padded_, padded_}) {
                for (const Index right : {Index{-1}, Index{1}}) {
                    const int filled = (label_[at(p + down)] != kOutside) + (label_[at(p + right)] != kOutside) +
                                       (label_[at(p + down + right)] != kOutside);
                    if (filled == 3) area += 1.0 / 4;
                    if (filled == 2) area += 0.5 / 3;
                }
            }
        }
        return std::round(2 * area) / 2;
    }

    Index height_, width_, padded_;
    std::vector<Byte> label_;
    std::vector<Index> waiting_;
};

void largest_boxes(const Array<Byte>& maps, Indices& largest, Index threads) {
    require(maps.ndim() == 3 && largest.ndim() == 3, "wrong number of axes");
    const Index count = maps.shape(0), height = maps.shape(1), width = maps.shape(2);
    require(largest.shape(0) == count && largest.shape(1) == kLevels && largest.shape(2) == 4, "wrong shapes");
    require(height * width > 0, "maps without pixels");
    const Byte* data = maps.data();
    std::int64_t* to = largest.mutable_data();
    const py::gil_scoped_release release;
    const Index pixels = height * width;
    parallel_for(count, useful_threads(threads, count * pixels * kLevels), [&](Index begin, Index end) {
        Largest finder(height, width);
        for (Index n = begin; n < end; ++n) {
            const Byte* map = data + n * pixels;
            std::array<bool, kLevels> present{};
            for (Index i = 0; i < pixels; ++i) present[map[i]] = true;
            Box box{0, 0, 0, 0};
            for (int level = kLevels - 1; level >= 0; --level) {
                // The set above a level changes only where the next value occurs.
                if (level + 1 < kLevels && present[static_cast<std::size_t>(level) + 1]) box = finder.find(map, level);
                std::int64_t* row = to + (n * kLevels + level) * 4;
                row[0] = box.x0, row[1] = box.y0, row[2] = box.x1, row[3] = box.y1;
            }
        }
    });
}

}  // namespace
}  // namespace camrt

void register_threshold_boxes(pybind11::module_& module) {
    namespace py = pybind11;
    module.def("best_overlaps", &camrt::best_overlaps, py::arg("maps").noconvert(), py::arg("boxes").noconvert(),
               py::arg("starts").noconvert(), py::arg("best").noconvert(), py::arg("threads"));
    module.def("largest_boxes", &camrt::largest_boxes, py::arg("maps").noconvert(), py::arg("largest").noconvert(),
               py::arg("threads"));
}
