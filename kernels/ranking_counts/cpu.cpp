// histogram and average_precision: see reference.py, which defines them.
#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

#include "arrays.hpp"

namespace camrt {
namespace {

using Byte = std::uint8_t;
using Word = std::uint32_t;

// A number whose order among unsigned integers is that of the scores; both zeros become the same.
Word ordered(float score) {
    const Word bits = std::bit_cast<Word>(score + 0.0F);
    return bits & 0x80000000U ? ~bits : bits | 0x80000000U;
}

// What was seen of the scores and marks on the way.
struct Seen {
    double low = 0, high = 0;
    bool finite = true, marked = true;
    std::int64_t ignored = 0;

    void join(const Seen& other) {
        low = std::min(low, other.low);
        high = std::max(high, other.high);
        finite = finite && other.finite;
        marked = marked && other.marked;
        ignored += other.ignored;
    }
};

constexpr Byte kIgnored = 255;

// The bins of scores. The range of the borders is divided into equal cells, and a score is compared with the
// borders in its own cell alone: cells rise with scores, so all other borders lie on the side of their cells.
class Bins {
public:
    Bins(const double* borders, Index bins)
        : borders_(borders), bins_(bins), scale_(kCells / (borders[bins] - borders[0])), before_(kCells + 2) {
        for (Index border = 0; border <= bins; ++border) ++before_[cell(borders[border]) + 1];
        for (std::size_t c = 1; c < before_.size(); ++c) before_[c] += before_[c - 1];
    }
    // The bin of a finite score, counted from 1; 0 below the first and bins + 1 above the last.
    Index of(double score) const {
        const std::size_t own = cell(score);
        const double* end = borders_ + before_[own + 1];
        const double* border = borders_ + before_[own];
        if (end - border > 8) {
            border = std::upper_bound(border, end, score);
        } else {
            while (border < end && *border <= score) ++border;
        }
        const Index bin = border - borders_;
        return bin - (bin == bins_ + 1 && score == borders_[bins_]);
    }

private:
    static constexpr std::int32_t kCells = 4096;

    std::size_t cell(double score) const {
        return static_cast<std::size_t>(std::clamp((score - borders_[0]) * scale_, 0.0, static_cast<double>(kCells)));
    }
    const double* borders_;
    Index bins_;
    double scale_;
    std::vector<std::int32_t> before_;  // how many borders lie in the cells before
};

py::tuple score_histogram(const Array<float>& scores, const Array<Byte>& marks, const Array<double>& edges,
                          Indices& counts, Index threads) {
    require(scores.size() == marks.size() && edges.size() >= 2, "scores and marks differ in length");
    require(counts.ndim() == 2 && counts.shape(0) == 2 && counts.shape(1) == edges.size() - 1, "wrong shape of counts");
    const float* values = scores.data();
    const Byte* own = marks.data();
    const Index bins = edges.size() - 1, length = scores.size();
    const Index shares = useful_threads(threads, length);
    std::int64_t* to = counts.mutable_data();
    std::vector<Seen> seen(static_cast<std::size_t>(shares));
    {
        const py::gil_scoped_release release;
        const Bins table(edges.data(), bins);
        const std::size_t row = static_cast<std::size_t>(bins) + 2;
        std::vector<std::int64_t> found(static_cast<std::size_t>(shares) * 2 * row);
        parallel_for(shares, threads, [&](Index from, Index until) {
            for (Index share = from; share < until; ++share) {
                Seen& note = seen[static_cast<std::size_t>(share)];
                std::int64_t* tally = found.data() + static_cast<std::size_t>(share) * 2 * row;
                float low = 0, high = 0;
                std::int64_t ignored = 0;
                const Index end = length * (share + 1) / shares;
                for (Index i = length * share / shares; i < end; ++i) {
                    const float value = values[i];
                    const Byte mark = own[i];
                    if (!(value - value == 0)) {
                        note.finite = false;
                        break;
                    }
                    low = std::min(low, value);
                    high = std::max(high, value);
                    if (mark > 1) {
                        if (mark != kIgnored) note.marked = false;
                        ++ignored;
                        continue;
                    }
                    ++tally[mark * row + static_cast<std::size_t>(table.of(static_cast<double>(value)))];
                }
                note.low = static_cast<double>(low);
                note.high = static_cast<double>(high);
                note.ignored = ignored;
            }
        });
        for (std::size_t share = 0; share < static_cast<std::size_t>(shares); ++share) {
            if (share > 0) seen[0].join(seen[share]);
            for (std::size_t mark = 0; mark < 2; ++mark) {
                const std::int64_t* tally = found.data() + (2 * share + mark) * row + 1;
                for (Index bin = 0; bin < bins; ++bin) to[static_cast<Index>(mark) * bins + bin] += tally[bin];
            }
        }
    }
    return py::make_tuple(seen[0].finite, seen[0].marked, seen[0].low, seen[0].high, seen[0].ignored);
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

double average_precision(const Array<float>& scores, const Array<Byte>& marks, Index threads) {
    require(scores.size() == marks.size(), "scores and marks differ in length");
    const float* values = scores.data();
    const Byte* own = marks.data();
    const Index length = scores.size();
    const py::gil_scoped_release release;
    Buckets buckets(values, own, length, threads);
    return buckets.average_precision(threads);
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
