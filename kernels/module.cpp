// Registers the operations; each is defined in its own folder.
#include <pybind11/pybind11.h>

void register_ablate(pybind11::module_& module);
void register_blur(pybind11::module_& module);
void register_box_probabilities(pybind11::module_& module);
void register_box_sums(pybind11::module_& module);
void register_hidden_scores(pybind11::module_& module);
void register_masked_batch(pybind11::module_& module);
void register_partial_products(pybind11::module_& module);
void register_perturb(pybind11::module_& module);
void register_rank_one(pybind11::module_& module);
void register_ranking_counts(pybind11::module_& module);
void register_saliency(pybind11::module_& module);
void register_threshold_boxes(pybind11::module_& module);

PYBIND11_MODULE(_native, module) {
    module.doc() = "The native kernels of camrt. Call them through camrt.kernels, which checks the arguments.";
    register_ablate(module);
    register_blur(module);
    register_box_probabilities(module);
    register_box_sums(module);
    register_hidden_scores(module);
    register_masked_batch(module);
    register_partial_products(module);
    register_perturb(module);
    register_rank_one(module);
    register_ranking_counts(module);
    register_saliency(module);
    register_threshold_boxes(module);
}
