// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "weights/tensor_map.h"

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace flashvsr {

/// Every size of the network that the weights determine. In brackets: the published models.
struct NetworkShape {
    static constexpr int64_t head_dim = 128;       ///< cannot be derived from the weights
    static constexpr int64_t latent_channels = 16; ///< of noise and prediction

    // Transformer (DiT).
    int64_t dim = 0;         ///< width of a token, a multiple of head_dim [1536]
    int64_t ffn_dim = 0;     ///< [8960]
    int64_t blocks = 0;      ///< [30]
    int64_t text_dim = 0;    ///< width of a token of the prompt [4096]
    int64_t freq_dim = 0;    ///< width of the sinusoidal time embedding, even [256]
    int64_t text_length = 0; ///< tokens of the prompt [512]

    // LQ projector.
    int64_t lq_hidden1 = 0; ///< channels after conv1 [2048]
    int64_t lq_hidden2 = 0; ///< channels after conv2 [3072]
    int64_t lq_layers = 0;  ///< linear layers; output i is added at the input of block i [1]

    // TC decoder.
    std::array<int64_t, 4> decoder_channels{}; ///< c0..c3 [512, 256, 128, 128]
    bool has_decoder_3 = true;                 ///< else decoder.3 is the identity
    bool has_decoder_24 = true;                ///< else decoder.24 is the identity

    int64_t heads() const { return dim / head_dim; }

    bool operator==(const NetworkShape &) const = default;
};

/// A tensor that a weight file has to hold.
struct TensorSpec {
    std::string name;
    std::vector<int64_t> shape;
};

/// The tensors of the three weight files for a network of this shape.
std::vector<TensorSpec> dit_tensors(const NetworkShape &shape);
std::vector<TensorSpec> lq_projector_tensors(const NetworkShape &shape);
std::vector<TensorSpec> decoder_tensors(const NetworkShape &shape);

/// The files that tensors came from, for sentences.
struct WeightFileNames {
    std::string dit, lq_projector, decoder, prompt;
};

/// Read the network's sizes from the weights' shapes and check that every tensor is there and of the
/// right shape, and that the parts fit together.
///
/// prompt is (1, text_length, text_dim). Names that are not known are ignored in the decoder, where the
/// published loader ignores them too, and refused elsewhere. Throws EBADMSG with a sentence that names
/// the file, the tensor and the shapes. Reads no tensor's values.
NetworkShape infer_shape(const TensorMap &dit, const TensorMap &lq_projector, const TensorMap &decoder,
                         const at::Tensor &prompt, const WeightFileNames &files);

} // namespace flashvsr
