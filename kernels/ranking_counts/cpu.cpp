// histogram and average_precision: see reference.py, which defines them.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "arrays.hpp"
#include "targets.hpp"

namespace camrt {
namespace {

using Byte = std::uint8_t;
using Word = std::uint32_t;

// A number whose order among unsigned integers is that of the scores; both zeros become the same.
Word ordered(float score) {
    const Word bits = std::bit_cast<Word>(score + 0.0F);
    return bits & 0x80000000U ? ~bits : bits | 0x80000000U;
}

constexpr Byte kIgnored = 255;

// What was seen of the scores and marks on the way.
struct Seen {
    float low = 0, high = 0;
    bool finite = true, marked = true;

    void join(const Seen& other) {
        low = std::min(low, other.low);
        high = std::max(high, other.high);
        finite = finite && other.finite;
        marked = marked && other.marked;
    }
};

// A signed number whose order is that of the scores, NaN and infinities at both ends. It undoes itself.
std::int32_t signed_order(std::int32_t bits) { return bits ^ ((bits >> 31) & 0x7fffffff); }

// Integers alone, so that every reduction vectorises.
CAMRT_CLONES void look(const float* CAMRT_RESTRICT values, const Byte* CAMRT_RESTRICT marks, Index count, Seen& seen) {
    constexpr std::int32_t kInfinite = 0x7f800000;
    std::int32_t low = 0, high = 0;
    Byte strange = 0;
    for (Index i = 0; i < count; ++i) {
        const std::int32_t key = signed_order(std::bit_cast<std::int32_t>(values[i]));
        low = std::min(low, key);
        high = std::max(high, key);
    }
    for (Index i = 0; i < count; ++i) strange |= static_cast<Byte>((marks[i] > 1) & (marks[i] != kIgnored));
    seen.finite = seen.finite && high < kInfinite && low > signed_order(static_cast<std::int32_t>(0xff800000U));
    seen.low = std::min(seen.low, std::bit_cast<float>(signed_order(low)));
    seen.high = std::max(seen.high, std::bit_cast<float>(high));
    seen.marked = seen.marked && strange == 0;
}

// The bins of scores. The range of the borders is divided into equal cells, so many that none holds more than
// two borders. Cells rise with scores, so a score is compared with the borders in its own cell alone: all others
// lie on the side of their cells. Where borders are evenly spaced, arithmetic takes the place of the table.
class Bins {
public:
    Bins(const double* borders, Index bins) : low_(above(borders[0], true)) {
        for (Index i = 0; i < bins; ++i) borders_.push_back(above(borders[i], true));
        borders_.push_back(above(borders[bins], false));  // the last bin holds its upper border
        const float width = borders_.back() - low_;
        const bool divisible = width > 1e-30F && width < std::numeric_limits<float>::infinity();
        for (cells_ = 1 << 12; divisible && cells_ <= 1 << 20; cells_ *= 2) {
            scale_ = static_cast<float>(cells_) / width;
            before_.assign(static_cast<std::size_t>(cells_) + 2, 0);
            for (const float border : borders_) ++before_[static_cast<std::size_t>(cell(border)) + 1];
            fine_ = *std::max_element(before_.begin(), before_.end()) <= 2;
            for (std::size_t c = 1; c < before_.size(); ++c) before_[c] += before_[c - 1];
            if (fine_) break;
        }
        borders_.resize(borders_.size() + 2, std::numeric_limits<float>::infinity());
        first_ = borders[0];
        step_ = borders[1] - borders[0];
        pace_ = static_cast<float>(1.000001 / step_);  // a little fast: a score is in the bin found or the one before
        // A score at a border that others share as floats is beyond them all, which arithmetic does not see.
        const auto right_at = [this](Index border) {
            const float at = borders_[index(border)];
            return bin_of(at) == border + 1 && last_before(border) == border && at < borders_[index(border + 1)];
        };
        while (divisible && step_ > 1e-30 && even_ + 1 < bins && right_at(even_ + 1)) ++even_;
    }
    Index rows() const { return static_cast<Index>(borders_.size()) - 1; }

    // The bins of finite scores in the row of their mark, the third for what is ignored. Bins are counted from 1;
    // 0 is below the first and one more than there are above the last.
    void of(const float* scores, const Byte* marks, Index count, const Seen& seen, std::int32_t* out) const {
        const auto row = static_cast<std::int32_t>(rows());
        if (even_ > 0 && seen.low >= low_ && seen.high <= borders_[index(even_)]) {
            in_steps(scores, marks, count, row, low_, pace_, first_, step_, out);
            return;
        }
        if (fine_) {
            in_cells(scores, marks, count, row, low_, scale_, static_cast<float>(cells_), before_.data(),
                     borders_.data(), out);
            return;
        }
        const auto end = borders_.end() - 2;
        for (Index i = 0; i < count; ++i) {
            const auto bin = std::upper_bound(borders_.begin(), end, scores[i]) - borders_.begin();
            out[i] = row * std::min<std::int32_t>(marks[i], 2) + static_cast<std::int32_t>(bin);
        }
    }

private:
    // The least float that is not below a border, or that is above it.
    static float above(double border, bool itself) {
        const float near = static_cast<float>(border);
        const bool enough = itself ? static_cast<double>(near) >= border : static_cast<double>(near) > border;
        return enough ? near : std::nextafter(near, std::numeric_limits<float>::infinity());
    }
    static std::size_t index(Index i) { return static_cast<std::size_t>(i); }
    // What in_steps says of one score, and of the last one below a border. It rises with the score, so that to be
    // right at both ends of a bin is to be right within it.
    Index bin_of(float score) const {
        const Byte mark = 0;
        std::int32_t bin = 0;
        in_steps(&score, &mark, 1, 0, low_, pace_, first_, step_, &bin);
        return bin;
    }
    Index last_before(Index border) const {
        return bin_of(std::nextafter(borders_[index(border)], -std::numeric_limits<float>::infinity()));
    }
    CAMRT_CLONES static void in_steps(const float* CAMRT_RESTRICT scores, const Byte* CAMRT_RESTRICT marks, Index count,
                                      std::int32_t row, float low, float pace, double first, double step,
                                      std::int32_t* CAMRT_RESTRICT out) {
        for (Index i = 0; i < count; ++i) {
            float place = (scores[i] - low) * pace;
            place = place < -1 ? -1 : place;
            place = place > 0x1p30F ? 0x1p30F : place;
            const auto near = static_cast<std::int32_t>(place);
            const std::int32_t bin = near + 1 - (static_cast<double>(scores[i]) < first + near * step);
            out[i] = row * std::min<std::int32_t>(marks[i], 2) + bin;
        }
    }

    std::int32_t cell(float score) const {
        return static_cast<std::int32_t>(std::clamp((score - low_) * scale_, 0.0F, static_cast<float>(cells_)));
    }
    CAMRT_CLONES static void in_cells(const float* CAMRT_RESTRICT scores, const Byte* CAMRT_RESTRICT marks, Index count,
                                      std::int32_t row, float low, float scale, float cells,
                                      const std::int32_t* CAMRT_RESTRICT before, const float* CAMRT_RESTRICT borders,
                                      std::int32_t* CAMRT_RESTRICT out) {
        for (Index i = 0; i < count; ++i) {
            float place = (scores[i] - low) * scale;
            place = place < 0 ? 0 : place;
            place = place > cells ? cells : place;
            const std::int32_t first = before[static_cast<std::int32_t>(place)];
            const std::int32_t bin = first + (scores[i] >= borders[first]) + (scores[i] >= borders[first + 1]);
            out[i] = row * std::min<std::int32_t>(marks[i], 2) + bin;
        }
    }

    float low_, scale_ = 0, pace_ = 0;
    std::int32_t cells_ = 0;
    bool fine_ = false;
    double first_ = 0, step_ = 0;
    Index even_ = 0;  // how many borders after the first are found by arithmetic
    std::vector<float> borders_;         // as floats that compare with scores as the borders do, and two infinities
    std::vector<std::int32_t> before_;  // how many borders lie in the cells before
};

// Tallies of a share of the scores: two, so that runs of one bin do not wait for each other, of three rows each, the
// third for what is ignored. They are short, to stay in the first-level cache: a share is of fewer than 2^32 scores.
void tally(const Bins& table, const float* values, const Byte* own, Index begin, Index end, Word* one,
           Seen& seen) {
    constexpr Index kBlock = 2048;
    Word* other = one + 3 * table.rows();
    std::vector<std::int32_t> bin(kBlock);
    for (Index i = begin; i < end; i += kBlock) {
        const Index count = std::min(kBlock, end - i);
        Seen note;
        look(values + i, own + i, count, note);
        seen.join(note);
        if (!note.finite) break;
        table.of(values + i, own + i, count, note, bin.data());
        Index j = 0;
        for (; j + 1 < count; j += 2) {
            ++one[bin[static_cast<std::size_t>(j)]];
            ++other[bin[static_cast<std::size_t>(j + 1)]];
        }
        if (j < count) ++one[bin[static_cast<std::size_t>(j)]];
    }
}

py::tuple score_histogram(const Array<float>& scores, const Array<Byte>& marks, const Array<double>& edges,
                          Indices& counts, Index threads) {
    require(scores.size() == marks.size() && edges.size() >= 2, "scores and marks differ in length");
    require(counts.ndim() == 2 && counts.shape(0) == 2 && counts.shape(1) == edges.size() - 1, "wrong shape of counts");
    const float* values = scores.data();
    const Byte* own = marks.data();
    const Index bins = edges.size() - 1, length = scores.size();
    const Index workers = useful_threads(threads, length);
    const Index shares = workers > 1 ? 4 * workers + (length >> 31) : 1 + (length >> 31);  // so that none waits long
    std::int64_t* to = counts.mutable_data();
    std::vector<Seen> seen(static_cast<std::size_t>(shares));
    std::int64_t ignored = 0;
    {
        const py::gil_scoped_release release;
        const Bins table(edges.data(), bins);
        const Index row = table.rows();
        std::vector<Word> found(static_cast<std::size_t>(shares * 6 * row));
        parallel_for(shares, threads, [&](Index from, Index until) {
            for (Index share = from; share < until; ++share) {
                tally(table, values, own, length * share / shares, length * (share + 1) / shares,
                      found.data() + share * 6 * row, seen[static_cast<std::size_t>(share)]);
            }
        });
        for (Index share = 0; share < shares; ++share) {
            if (share > 0) seen[0].join(seen[static_cast<std::size_t>(share)]);
            for (Index half = 0; half < 2; ++half) {
                const Word* counted = found.data() + (6 * share + 3 * half) * row;
                for (Index bin = 0; bin < bins; ++bin) {
                    to[bin] += counted[bin + 1];
                    to[bins + bin] += counted[row + bin + 1];
                }
                ignored = std::accumulate(counted + 2 * row, counted + 3 * row, ignored);
            }
        }
    }
    return py::make_tuple(seen[0].finite, seen[0].marked, seen[0].low, seen[0].high, ignored);
}

// Scores are dealt into buckets by their first bits; within a bucket, what is left of them is counted.
class Buckets {
public:
    static constexpr int kShift = 14;
    static constexpr std::size_t kCount = std::size_t{1} << (32 - kShift);
    using Short = std::uint16_t;  // the last bits of a score, and whether it is positive
    static_assert(kShift < 16);

    Buckets(const float* values, const Byte* own, Index length, Index threads)
        : starts_(kCount + 1), positives_(kCount) {
        const Index shares = useful_threads(threads, length);
        std::vector<std::vector<std::size_t>> counts(static_cast<std::size_t>(shares));
        const auto each = [&](const auto& body) {
            parallel_for(shares, threads, [&](Index from, Index until) {
                for (Index share = from; share < until; ++share) {
                    body(counts[static_cast<std::size_t>(share)], length * share / shares, length * (share + 1) / shares);
                }
            });
        };
        each([&](std::vector<std::size_t>& count, Index begin, Index end) {
            count.assign(2 * kCount, 0);
            for (Index i = begin; i < end; ++i) {
                if (own[i] <= 1) ++count[2 * (ordered(values[i]) >> kShift) + own[i]];
            }
        });
        std::size_t place = 0;
        for (std::size_t b = 0; b < kCount; ++b) {
            starts_[b] = place;
            for (std::vector<std::size_t>& count : counts) {
                const std::size_t members = count[2 * b] + count[2 * b + 1];
                positives_[b] += count[2 * b + 1];
                count[2 * b] = place;  // from now on: where this share writes next
                place += members;
            }
        }
        starts_[kCount] = place;
        rests_.resize(place);
        each([&](std::vector<std::size_t>& next, Index begin, Index end) {
            for (Index i = begin; i < end; ++i) {
                if (own[i] > 1) continue;
                const Word key = ordered(values[i]);
                rests_[next[2 * (key >> kShift)]++] =
                    static_cast<Short>((key & ((Word{1} << kShift) - 1)) << 1 | own[i]);
            }
        });
    }

    double average_precision(Index threads) {
        // How many hits, and how many at all, lie above each bucket.
        std::vector<std::size_t> hits(kCount);
        std::size_t above = 0;
        for (std::size_t b = kCount; b-- > 0;) {
            hits[b] = above;
            above += positives_[b];
        }
        std::vector<double> sums(kCount);
        constexpr Index kShares = 64;
        parallel_for(kShares, useful_threads(threads, static_cast<Index>(rests_.size())), [&](Index from, Index until) {
            std::vector<Word> table(std::size_t{2} << kShift);
            // Equal shares of the scores, whole buckets each.
            const auto edge = [&](Index share) {
                const std::size_t wanted = rests_.size() / kShares * static_cast<std::size_t>(share);
                return share == kShares ? kCount
                                        : static_cast<std::size_t>(std::lower_bound(starts_.begin(), starts_.end() - 1, wanted) -
                                                                   starts_.begin());
            };
            for (std::size_t b = from == 0 ? 0 : edge(from); b < edge(until); ++b) {
                if (positives_[b]) sums[b] = bucket(b, hits[b], table);
            }
        });
        double sum = 0;
        for (std::size_t b = kCount; b-- > 0;) sum += sums[b];
        return sum / static_cast<double>(above);
    }

private:
    double bucket(std::size_t b, std::size_t hits, std::vector<Word>& table) {
        const auto begin = rests_.begin() + static_cast<std::ptrdiff_t>(starts_[b]);
        const auto end = rests_.begin() + static_cast<std::ptrdiff_t>(starts_[b + 1]);
        std::size_t all = rests_.size() - starts_[b + 1];
        double sum = 0;
        const auto level = [&](std::size_t positives, std::size_t negatives) {
            hits += positives;
            all += positives + negatives;
            if (positives) sum += static_cast<double>(positives) * (static_cast<double>(hits) / static_cast<double>(all));
        };
        constexpr std::ptrdiff_t kFew = 1024;  // below this sorting is cheaper than walking the table
        if (end - begin > kFew) {
            for (auto at = begin; at != end; ++at) ++table[*at];
            for (std::size_t rest = std::size_t{1} << kShift; rest-- > 0;) {
                level(table[2 * rest + 1], table[2 * rest]);
            }
            std::fill(table.begin(), table.end(), 0);
            return sum;
        }
        std::sort(begin, end);
        for (auto at = end; at != begin;) {
            std::size_t found[2] = {0, 0};
            const int rest = *(at - 1) >> 1;
            while (at != begin && *(at - 1) >> 1 == rest) ++found[*--at & 1];
            level(found[1], found[0]);
        }
        return sum;
    }

    std::vector<std::size_t> starts_, positives_;
    std::vector<Short> rests_;
};

py::tuple average_precision(const Array<float>& scores, const Array<Byte>& marks, Index threads) {
    require(scores.size() == marks.size(), "scores and marks differ in length");
    const float* values = scores.data();
    const Byte* own = marks.data();
    const Index length = scores.size();
    Seen seen;
    double value = 0;
    bool positive = false;
    {
        const py::gil_scoped_release release;
        if (length > 0) look(values, own, length, seen);
        positive = std::find(own, own + length, Byte{1}) != own + length;
        if (seen.finite && seen.marked && positive) value = Buckets(values, own, length, threads).average_precision(threads);
    }
    return py::make_tuple(value, seen.finite, seen.marked, positive);
}

}  // namespace
}  // namespace camrt

void register_ranking_counts(pybind11::module_& module) {
    namespace py = pybind11;
    module.def("score_histogram", &camrt::score_histogram, py::arg("scores").noconvert(), py::arg("marks").noconvert(),
               py::arg("edges").noconvert(), py::arg("counts").noconvert(), py::arg("threads"));
    module.def("average_precision", &camrt::average_precision, py::arg("scores").noconvert(),
               py::arg("marks").noconvert(), py::arg("threads"));
}
