// ablate_channels and ablate_boxes: see reference.py, which defines them. Only bytes are moved, so one
// function serves both types.
#include <cstring>

#include "arrays.hpp"

namespace camrt {
namespace {

// What both operations share: activations (N,K,h,w) and out (B,K,h,w) as bytes.
struct Batch {
    Index batch, channels, rows, columns, item;
    const char* from;
    char* to;
    const std::int64_t* batch_index;

    Index map_bytes() const { return rows * columns * item; }
    Index image_bytes() const { return channels * map_bytes(); }
    const char* source(Index b) const { return from + batch_index[b] * image_bytes(); }
    char* target(Index b) const { return to + b * image_bytes(); }
};

template <class T>
Batch batch_of(const Array<T>& activations, const Indices& batch_index, Array<T>& out) {
    require(activations.ndim() == 4 && out.ndim() == 4, "wrong number of axes");
    for (int axis = 1; axis < 4; ++axis) {
        require(out.shape(axis) == activations.shape(axis), "out and activations differ in shape");
    }
    require(batch_index.size() == out.shape(0), "batch_index must be as long as out");
    require(within(batch_index, activations.shape(0)), "batch_index out of range");
    return {out.shape(0),
            out.shape(1),
            out.shape(2),
            out.shape(3),
            static_cast<Index>(sizeof(T)),
            reinterpret_cast<const char*>(activations.data()),
            reinterpret_cast<char*>(out.mutable_data()),
            batch_index.data()};
}

std::size_t bytes(Index count) { return static_cast<std::size_t>(count); }

template <class T>
void ablate_channels(const Array<T>& activations, const Indices& batch_index, const Indices& channel,
                     Array<T>& out, Index threads) {
    const Batch all = batch_of(activations, batch_index, out);
    require(channel.size() == all.batch, "channel must be as long as out");
    require(within(channel, all.channels), "channel out of range");
    const std::int64_t* chosen = channel.data();
    const py::gil_scoped_release release;
    const Index map = all.map_bytes();
    parallel_for(all.batch, useful_threads(threads, all.batch * all.image_bytes() / 4),
                 [&](Index begin, Index end) {
                     for (Index b = begin; b < end; ++b) {
                         std::memcpy(all.target(b), all.source(b), bytes(all.image_bytes()));
                         std::memset(all.target(b) + chosen[b] * map, 0, bytes(map));
                     }
                 });
}

void ablate_box(const Batch& all, Index b, const std::int64_t* box, bool keep) {
    if (keep) {
        std::memset(all.target(b), 0, bytes(all.image_bytes()));
    } else {
        std::memcpy(all.target(b), all.source(b), bytes(all.image_bytes()));
    }
    const Index length = (box[3] - box[1]) * all.item;
    for (Index k = 0; k < all.channels; ++k) {
        for (Index r = box[0]; r < box[2]; ++r) {
            const Index at = k * all.map_bytes() + (r * all.columns + box[1]) * all.item;
            if (keep) {
                std::memcpy(all.target(b) + at, all.source(b) + at, bytes(length));
            } else {
                std::memset(all.target(b) + at, 0, bytes(length));
            }
        }
    }
}

template <class T>
void ablate_boxes(const Array<T>& activations, const Indices& batch_index, const Indices& boxes, Array<T>& out,
                  bool keep, Index threads) {
    const Batch all = batch_of(activations, batch_index, out);
    require(boxes_within(boxes, all.rows, all.columns) && boxes.shape(0) == all.batch, "boxes out of range");
    const std::int64_t* box = boxes.data();
    const py::gil_scoped_release release;
    parallel_for(all.batch, useful_threads(threads, all.batch * all.image_bytes() / 4),
                 [&](Index begin, Index end) {
                     for (Index b = begin; b < end; ++b) ablate_box(all, b, box + 4 * b, keep);
                 });
}

template <class T>
void define(py::module_& module) {
    module.def("ablate_channels", &ablate_channels<T>, py::arg("activations").noconvert(),
               py::arg("batch_index").noconvert(), py::arg("channel").noconvert(), py::arg("out").noconvert(),
               py::arg("threads"));
    module.def("ablate_boxes", &ablate_boxes<T>, py::arg("activations").noconvert(),
               py::arg("batch_index").noconvert(), py::arg("boxes").noconvert(), py::arg("out").noconvert(),
               py::arg("keep"), py::arg("threads"));
}

}  // namespace
}  // namespace camrt

void register_ablate(pybind11::module_& module) {
    camrt::define<float>(module);
    camrt::define<double>(module);
}
