// best_overlaps and largest_boxes: see reference.py, which defines them, and README.md for how they are found.
#include <algorithm>
#include <array>
#include <cstdlib>
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

// The components of all thresholds of one map, kept while its pixels are added in the order of their values.
// `Holes`: the components of {map <= t}, as t rises; otherwise those of {map > t}, as t falls. `State` is what else
// is known of a component: state.begin(place), state.join(other).
template <bool Holes, class State>
class Components {
public:
    struct Part {
        Span span;
        std::int32_t labels;  // how many labels its pixels have
        State state;
    };

    Components(Index height, Index width)
        : height_(height), width_(width), label_(static_cast<std::size_t>((height + 2) * (width + 2))) {}

protected:
    static constexpr std::int32_t kNone = -1;

    template <class I>
    static std::size_t at(I i) { return static_cast<std::size_t>(i); }

    void clear() {
        std::fill(label_.begin(), label_.end(), kNone);
        root_.clear();
        next_.clear();
        parts_.clear();
    }

    // `changes(id, begins)` is called before a component changes, and after a new one has begun.
    template <class Changes>
    void add(Place place, const Changes& changes) {
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
            parts_.push_back({{row, column, row, column}, 1, State::begin(place)});
            *here = root;
            changes(root, true);
            return;
        }
        const bool alone = fewest == static_cast<std::uint32_t>(root);
        root = root_[at(root)];
        changes(root, false);
        if (!alone) {
            for (const Index step : {-wide, Index{-1}, Index{1}, wide, -wide - 1, -wide + 1, wide - 1, wide + 1}) {
                if (Holes && step != 1 && step != -1 && step != wide && step != -wide) break;
                const std::int32_t label = here[step];
                if (label == kNone) continue;
                const std::int32_t other = root_[at(label)];
                if (other == root) continue;
                changes(other, false);
                root = merge(root, other);
            }
        }
        Part& part = parts_[at(root)];
        part.span.join({row, column, row, column});
        part.state.join(State::begin(place));
        *here = root;
    }

    bool remains(std::size_t id) const { return root_[id] == static_cast<std::int32_t>(id); }

    Index height_, width_;
    std::vector<std::int32_t> label_;  // of every pixel, with a frame around the map
    std::vector<Part> parts_;

private:
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
        parts_[at(one)].state.join(parts_[at(other)].state);
        return one;
    }

    std::vector<std::int32_t> root_;  // of every label: its component
    std::vector<std::int32_t> next_;  // the rings of the labels of each component
};

constexpr std::int32_t kChanging = -1;

struct Overlap {
    std::int32_t since;  // the first threshold it lives at, kChanging while it grows
    double overlap;

    static Overlap begin(Place) { return {kChanging, 0}; }
    void join(const Overlap&) {}
};

// The best overlap of all contours of one kind, outer ones or those of holes, at every threshold.
template <bool Holes>
class Overlaps : public Components<Holes, Overlap> {
    using Base = Components<Holes, Overlap>;
    using typename Base::Part;
    using Base::at, Base::height_, Base::parts_, Base::width_;

public:
    using Base::Base;

    // `order` lists the pixels by value, `starts` says where each value begins. Raises best[t] to the overlap
    // of every contour that exists at t.
    void run(const std::vector<Place>& order, const std::array<std::int32_t, kLevels + 1>& starts,
             const Box* boxes, Index count, double* best) {
        this->clear();
        best_ = best;
        for (int step = 0; step < kLevels; ++step) {
            const int level = Holes ? step : kLevels - 1 - step;
            if (!Holes && level == 0) break;  // nothing is below no threshold
            const std::int32_t begin = starts[at(level)], end = starts[at(level + 1)];
            if (begin == end) continue;
            changed_.clear();
            const auto changes = [&](std::int32_t id, bool begins) {
                Part& part = parts_[at(id)];
                if (part.state.since == kChanging && !begins) return;
                settle(part, level);
                changed_.push_back(id);
            };
            for (std::int32_t i = begin; i < end; ++i) this->add(order[at(i)], changes);
            for (const std::int32_t id : changed_) {
                if (this->remains(at(id))) close(parts_[at(id)], level, boxes, count);
            }
        }
        for (std::size_t id = 0; id < parts_.size(); ++id) {
            if (this->remains(id)) settle(parts_[id], Holes ? kLevels : 0);
        }
    }

private:
    // Enters the overlap of a component that is about to change at `level`, for every threshold it lived at.
    void settle(Part& part, int level) {
        Overlap& found = part.state;
        if (found.since == kChanging) return;
        if (found.overlap > 0) {
            const int low = Holes ? found.since : level, high = Holes ? level - 1 : found.since;
            for (int t = low; t <= high; ++t) best_[t] = std::max(best_[t], found.overlap);
        }
        found.since = kChanging;
    }

    // Notes the overlap that a component has from this level on.
    void close(Part& part, int level, const Box* boxes, Index count) {
        const Span& span = part.span;
        const bool outside = Holes && (span.top == 0 || span.left == 0 || span.bottom == height_ - 1 ||
                                       span.right == width_ - 1);
        part.state.overlap = outside ? 0 : best_of(span.box(height_, width_, Holes ? 1 : 0), boxes, count);
        part.state.since = Holes ? level : level - 1;
    }

    std::vector<std::int32_t> changed_;
    double* best_ = nullptr;
};

struct Outline {
    Place first;         // its first pixel, row by row
    std::int64_t area;   // twice what its outer border encloses; kUnknown since it has changed

    static constexpr std::int64_t kUnknown = -1;
    static Outline begin(Place place) { return {place, kUnknown}; }
    void join(const Outline& other) { first = std::min(first, other.first); }
};

// The outer contour that encloses the largest area, at every threshold.
class Largest : public Components<false, Outline> {
public:
    using Components::Components;

    // Writes the box for each threshold (kLevels, 4); pixels are listed as for `Overlaps`.
    void run(const std::vector<Place>& order, const std::array<std::int32_t, kLevels + 1>& starts,
             std::int64_t* boxes) {
        clear();
        living_.clear();
        Box box{0, 0, 0, 0};
        const auto changes = [&](std::int32_t id, bool begins) {
            parts_[at(id)].state.area = Outline::kUnknown;
            if (begins) living_.push_back(id);
        };
        for (int level = kLevels - 1; level >= 0; --level) {
            std::int64_t* row = boxes + 4 * level;
            row[0] = box.x0, row[1] = box.y0, row[2] = box.x1, row[3] = box.y1;
            const std::int32_t begin = starts[at(level)], end = starts[at(level + 1)];
            if (begin == end || level == 0) continue;  // nothing is below no threshold
            for (std::int32_t i = begin; i < end; ++i) add(order[at(i)], changes);
            box = largest();
        }
    }

private:
    // Walks round the outer borders that may enclose most; of several equal ones the last to begin counts.
    Box largest() {
        living_.erase(std::remove_if(living_.begin(), living_.end(), [&](std::int32_t id) { return !remains(at(id)); }),
                      living_.end());
        std::int64_t most = -1;
        std::int32_t chosen = kNone;
        const auto consider = [&](std::int32_t id) {
            Part& part = parts_[at(id)];
            if (part.state.area == Outline::kUnknown) part.state.area = walk(part.state.first);
            const std::int64_t area = part.state.area;
            if (area < most || (area == most && part.state.first < parts_[at(chosen)].state.first)) return;
            most = area;
            chosen = id;
        };
        std::int32_t widest = living_.front();
        for (const std::int32_t id : living_) {
            if (bound(id) > bound(widest)) widest = id;
        }
        consider(widest);
        for (const std::int32_t id : living_) {
            if (bound(id) >= most) consider(id);
        }
        return parts_[at(chosen)].span.box(height_, width_, 0);
    }

    // Twice the area of the span's rectangle through the middles of its pixels, which holds the border.
    std::int64_t bound(std::int32_t id) const {
        const Span& span = parts_[at(id)].span;
        return std::int64_t{2} * (span.bottom - span.top) * (span.right - span.left);
    }

    // Twice the area of the polygon through the middles of an outer border's pixels, from the component's first
    // pixel on: from each pixel the next one is looked for counter-clockwise from where the last one lay.
    std::int64_t walk(Place first) const {
        // Clockwise from the left: columns and rows of the eight neighbours.
        constexpr std::array<std::int32_t, 8> kRight{-1, -1, 0, 1, 1, 1, 0, -1}, kDown{0, -1, -1, -1, 0, 1, 1, 1};
        const Index wide = width_ + 2;
        std::array<Index, 8> steps{};
        for (std::size_t i = 0; i < 8; ++i) steps[i] = kDown[i] * wide + kRight[i];
        std::int64_t x = first & kColumnMask, y = first >> kColumnBits;
        const std::int32_t* here = label_.data() + (y + 1) * wide + x + 1;
        const std::int32_t* const start = here;
        std::size_t back = 0;
        while (back < 8 && here[steps[back]] == kNone) ++back;
        if (back == 8) return 0;
        const std::int32_t* const last = here + steps[back];  // whence the walk comes back to its start
        std::int64_t twice = 0;
        while (true) {
            std::size_t next = back;
            do next = (next + 7) % 8;
            while (here[steps[next]] == kNone);
            twice += x * kDown[next] - y * kRight[next];
            const bool whole = here == last && here + steps[next] == start;
            here += steps[next];
            x += kRight[next];
            y += kDown[next];
            if (whole) return std::abs(twice);
            back = (next + 4) % 8;
        }
    }

    std::vector<std::int32_t> living_;
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
        Overlaps<false> regions(height, width);
        Overlaps<true> holes(height, width);
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

void largest_boxes(const Array<Byte>& maps, Indices& largest, Index threads) {
    require(maps.ndim() == 3 && largest.ndim() == 3, "wrong number of axes");
    const Index count = maps.shape(0), height = maps.shape(1), width = maps.shape(2);
    require(largest.shape(0) == count && largest.shape(1) == kLevels && largest.shape(2) == 4, "wrong shapes");
    require(height > 0 && width > 0 && height <= kColumnMask && width <= kColumnMask, "maps of a wrong size");
    const Byte* data = maps.data();
    std::int64_t* to = largest.mutable_data();
    const py::gil_scoped_release release;
    const Index pixels = height * width;
    parallel_for(count, useful_threads(threads, count * pixels * 50), [&](Index begin, Index end) {
        Largest finder(height, width);
        std::vector<Place> order(static_cast<std::size_t>(pixels));
        std::array<std::int32_t, kLevels + 1> values;
        for (Index n = begin; n < end; ++n) {
            sort_pixels(data + n * pixels, height, width, order, values);
            finder.run(order, values, to + n * kLevels * 4);
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
