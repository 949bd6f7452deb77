// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "frame/upscale.h"

#include <ATen/core/Tensor.h>

#include <vector>

namespace flashvsr {

/// A network input: a rectangle of the padded output picture, in output pixels. Sides are multiples of 128,
/// so that tiles of one grid can be batched; corners are multiples of 8, so that tiles see the picture's
/// noise.
struct Tile {
    int64_t y = 0, x = 0;
    Size size;

    bool operator==(const Tile &) const = default;
};

/// Tiles that cover a padded picture of `target`. In each direction alone: where a tile is as large as the
/// picture there is one; else tiles overlap by `overlap` pixels or up to 7 more, and the last is shifted back
/// to end at the border.
/// @param target  a multiple of 128 in both directions
/// @param tile    wished side, output pixels; rounded up to a multiple of 128
/// @param overlap output pixels, less than the rounded tile
/// @return row by row
std::vector<Tile> make_tile_grid(Size target, int64_t tile, int64_t overlap);

/// What one batch of neighbouring tiles of a grid gave.
struct TileOutput {
    size_t first = 0;  ///< place of the first tile in the grid
    at::Tensor frames; ///< (B, 3, T, tile height, tile width)
};

/// Blending weights of a grid: linear ramps across what neighbours share, made to sum to 1 at every pixel.
class Feather {
public:
    /// @param device where the tiles are
    explicit Feather(std::vector<Tile> grid, Size target, at::Device device = at::kCPU);

    /// Add tiles to a picture: picture += weight * tile. For the same bits whatever the batches, tiles are to
    /// be added in the grid's order. All of them are added, or none where memory runs out.
    /// @param picture (3, T, target height, target width); where undefined, made of zeros like `like`
    /// @param like    (3, T, target height, target width)
    void accumulate(at::Tensor &picture, const TileOutput &output, const at::Tensor &like) const;

    /// Weight of tile `index`, (height, width).
    at::Tensor weight(size_t index) const;

private:
    struct Ramps {
        at::Tensor y, x; ///< (height, 1), (1, width)
    };
    std::vector<Tile> grid_;
    std::vector<Ramps> ramps_;
};

} // namespace flashvsr
