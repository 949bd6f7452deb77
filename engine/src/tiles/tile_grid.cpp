// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tiles/tile_grid.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <set>

namespace flashvsr {

namespace {

constexpr int64_t block_pixels = 128, latent_pixels = 8;

int64_t tile_side(int64_t wished, int64_t picture) {
    return std::min((wished + block_pixels - 1) / block_pixels * block_pixels, picture);
}

std::vector<int64_t> corners(int64_t picture, int64_t tile, int64_t overlap) {
    std::vector<int64_t> result = {0};
    const int64_t stride = std::max(latent_pixels, (tile - overlap) / latent_pixels * latent_pixels);
    while (result.back() + tile < picture)
        result.push_back(std::min(result.back() + stride, picture - tile));
    return result;
}

/// Weights along one direction: per corner a line of `tile` values.
std::map<int64_t, std::vector<double>> line_weights(const std::set<int64_t> &starts, int64_t tile,
                                                    int64_t picture) {
    std::map<int64_t, std::vector<double>> lines;
    std::vector<double> sum(picture);
    for (auto start = starts.begin(); start != starts.end(); ++start) {
        std::vector<double> line(tile, 1.0);
        const auto ramp = [&](int64_t shared, auto &&place) {
            for (int64_t i = 0; i < shared; i++)
                place(i) = std::min(place(i), (static_cast<double>(i) + 0.5) / static_cast<double>(shared));
        };
        if (start != starts.begin())
            ramp(*std::prev(start) + tile - *start, [&](int64_t i) -> double & { return line[i]; });
        if (std::next(start) != starts.end())
            ramp(*start + tile - *std::next(start),
                 [&](int64_t i) -> double & { return line[tile - 1 - i]; });
        for (int64_t i = 0; i < tile; i++)
            sum[*start + i] += line[i];
        lines[*start] = std::move(line);
    }
    // Two neighbours sum to 1 as they are; three, where the last tile was shifted far back, need it.
    for (auto &[start, line] : lines)
        for (int64_t i = 0; i < tile; i++)
            line[i] /= sum[start + i];
    return lines;
}

at::Tensor to_tensor(const std::vector<double> &line) {
    return at::tensor(line, at::kDouble).to(at::kFloat);
}

} // namespace

std::vector<Tile> make_tile_grid(Size target, int64_t tile, int64_t overlap) {
    const Size size = {tile_side(tile, target.width), tile_side(tile, target.height)};
    std::vector<Tile> grid;
    for (const int64_t y : corners(target.height, size.height, overlap))
        for (const int64_t x : corners(target.width, size.width, overlap))
            grid.push_back({y, x, size});
    return grid;
}

Feather::Feather(std::vector<Tile> grid, Size target, at::Device device) : grid_(std::move(grid)) {
    std::set<int64_t> rows, cols;
    for (const Tile &tile : grid_) {
        rows.insert(tile.y);
        cols.insert(tile.x);
    }
    const Size size = grid_.front().size;
    const auto row_lines = line_weights(rows, size.height, target.height),
               col_lines = line_weights(cols, size.width, target.width);
    for (const Tile &tile : grid_)
        ramps_.push_back({to_tensor(row_lines.at(tile.y)).unsqueeze(1).to(device),
                          to_tensor(col_lines.at(tile.x)).unsqueeze(0).to(device)});
}

void Feather::accumulate(at::Tensor &picture, const TileOutput &output, const at::Tensor &like) const {
    if (grid_.size() == 1) {
        picture = output.frames.squeeze(0);
        return;
    }
    if (!picture.defined())
        picture = at::zeros_like(like);
    std::vector<at::Tensor> weighted;
    for (int64_t i = 0; i < output.frames.size(0); i++) {
        const Ramps &ramps = ramps_[output.first + static_cast<size_t>(i)];
        weighted.push_back((output.frames[i].to(picture.scalar_type()) * ramps.y).mul_(ramps.x));
    }
    for (size_t i = 0; i < weighted.size(); i++) {
        const Tile &tile = grid_[output.first + i];
        picture.narrow(2, tile.y, tile.size.height).narrow(3, tile.x, tile.size.width).add_(weighted[i]);
    }
}

at::Tensor Feather::weight(size_t index) const {
    return ramps_[index].y * ramps_[index].x;
}

} // namespace flashvsr
