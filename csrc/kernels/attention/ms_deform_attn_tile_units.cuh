// How blocks share the queries of multi-scale deformable attention: see ms_deform_attn_tiles.cuh.
#pragma once

#include "kernels/attention/ms_deform_attn_gather.cuh"

namespace bridge {

// A unit is what a warp does at a time: queries that follow one another, of two heads. Blocks of a pair of heads share
// its units.
struct MsDeformAttnTilesPlan {
  static constexpr int kWarps = 24, kLanes = 4, kHeads = 2, kQueries = 4;  // lanes of a (query, head); of a unit
  static constexpr int kChannels = 32, kRound = 16;  // samples of a (query, head) that lie in shared memory at a time
  static constexpr int kFewRows = 16384;             // with fewer, the general kernel spreads a query's points
  static constexpr int kFewPositions = 4;            // that are read where a level has none
  static constexpr int kStrip = 4;                   // units side by side, at most
  static constexpr int kMostStrips = 256;            // of a level
  static constexpr int kMostUnits = 1024;            // of a part of an image
  static constexpr int kMostSamples = 512;           // whose levels fit into shared memory
  static constexpr int kCountBit = 28;
  int pairs, parts;  // of heads; blocks of a pair

  template <class T, class Source>
  static bool takes(MsDeformAttnArguments<T> const& a, Source const& source, int multiprocessors) {
    int64_t const rows = int64_t(a.batch) * a.queries * a.heads, most = std::max(a.samples(), a.head_dim);
    bool const are_aligned = aligned(a.value) && aligned(a.out) && source.aligned_pairs() && source.aligned_fours();
    return sizeof(T) == 2 && are_aligned && a.head_dim == kChannels && a.heads % kHeads == 0 &&
           a.heads / kHeads <= multiprocessors && a.points % kLanes == 0 && a.samples() <= kMostSamples &&
           a.positions >= kFewPositions && rows >= kFewRows && rows <= std::numeric_limits<int>::max() / most;
  }
  template <class T>
  MsDeformAttnTilesPlan(MsDeformAttnArguments<T> const& a, int multiprocessors)
      : pairs(a.heads / kHeads), parts(multiprocessors / pairs) {}
};

// A level as tiles read it. Where it has less than two rows or columns, or is not within value, there are NaN extents:
// what is read of it counts for nothing.
struct alignas(16) MsDeformAttnTileLevel {
  float width, height;
  int last_column, last_row;  // that have a neighbour
  int columns, start, index;

  __device__ MsDeformAttnTileLevel(MsDeformAttnLevel const& level, int index)
      : width(level.width),
        height(level.height),
        last_column(level.columns - 2),
        last_row(int(level.height) - 2),
        columns(level.columns),
        start(level.start),
        index(index) {
    if (last_column >= 0 && last_row >= 0) return;
    width = height = nanf(""), last_column = last_row = start = 0, columns = 1;
  }
};

// The levels of a call, one for each four samples: [samples / 4].
template <class T>
__device__ void fill_tile_levels(MsDeformAttnArguments<T> const& a, MsDeformAttnTileLevel* levels) {
  int const fours = a.points / 4;
  for (int i = threadIdx.x; i < a.samples() / 4; i += blockDim.x)
    levels[i] = MsDeformAttnTileLevel(load_level(a, i / fours), i / fours);
}

// Part of units, and how many are in it.
struct MsDeformAttnPart {
  int first = 0, count = 0;

  MsDeformAttnPart() = default;
  __device__ MsDeformAttnPart(int units, int part, int parts) {
    int const even = units / parts, rest = units % parts;
    first = part * even + part * rest / parts, count = even + (part + 1) * rest / parts - part * rest / parts;
  }
};

// A level whose positions are queries, in rows of units, and what a block has of it: strips of units side by side, from
// top to bottom. All levels have as many strips, so that blocks have the same part of each.
struct MsDeformAttnStrips {
  int width, height, across, units, queries;  // queries: of this level; before it, once it is known
  int strips = 1;
  MsDeformAttnPart own;

  __device__ MsDeformAttnStrips(MsDeformAttnLevel const& level, int part, int parts)
      : width(level.columns),
        height(isnan(level.height) ? 0 : max(int(level.height), 0)),
        across((width + MsDeformAttnTilesPlan::kQueries - 1) / MsDeformAttnTilesPlan::kQueries),
        units(across * height),
        queries(width * height),
        own(units, part, parts) {}

  __device__ int wished_strips() const {
    return min((across + MsDeformAttnTilesPlan::kStrip - 1) / MsDeformAttnTilesPlan::kStrip,
               MsDeformAttnTilesPlan::kMostStrips);
  }
  // How many units of a row are before a strip.
  __device__ int edge(int strip) const { return strip * across / strips; }

  // The first query of a unit, and how many it has.
  __device__ int entry(int unit) const {
    using Plan = MsDeformAttnTilesPlan;
    int const column = unit / height, strip = ((column + 1) * strips - 1) / across;
    int const first = edge(strip), wide = edge(strip + 1) - first, within = unit - first * height, y = within / wide;
    int const x = (first + within - y * wide) * Plan::kQueries;
    return (queries + y * width + x) | min(Plan::kQueries, width - x) << Plan::kCountBit;
  }
};

// The units of a block. Where queries are the positions of all levels, in their order, it has a part of each level's,
// which is much the same part of the image. `table` holds those of an image, and all images have the same. Otherwise
// units follow one another, from `first` on, over all images.
struct MsDeformAttnUnits {
  static constexpr int kMostLevels = kWarpSize;
  int first, all, an_image;  // all: of all images
  bool tiled;

  struct Shared {
    MsDeformAttnStrips strips[kMostLevels];
    int begin[kMostLevels + 1];  // in the table; of the last: all
    bool tiled;
  };

  // To be called by a warp; then all threads wait.
  template <class T>
  static __device__ void share(MsDeformAttnArguments<T> const& a, int part, int parts, Shared& shared) {
    int const lane = static_cast<int>(threadIdx.x) % kWarpSize;
    MsDeformAttnStrips strips(lane < a.levels ? load_level(a, lane) : MsDeformAttnLevel{}, part, parts);
    int most = max(strips.wished_strips(), 1);
    for (int distance = 1; distance < kWarpSize; distance *= 2)
      most = max(most, __shfl_xor_sync(0xffffffffu, most, distance));
    strips.strips = most;
    int units = strips.own.count, queries = strips.queries;  // of this level and those before it
    for (int distance = 1; distance < kWarpSize; distance *= 2) {
      int const more_units = __shfl_up_sync(0xffffffffu, units, distance);
      int const more_queries = __shfl_up_sync(0xffffffffu, queries, distance);
      if (lane >= distance) units += more_units, queries += more_queries;
    }
    bool const last = lane == kWarpSize - 1;
    bool const regular = !last || (queries == a.queries && queries == a.positions && a.levels <= kMostLevels &&
                                   units <= MsDeformAttnTilesPlan::kMostUnits);
    strips.queries = queries - strips.queries;
    shared.strips[lane] = strips, shared.begin[lane] = units - strips.own.count;
    if (last)
      shared.begin[kMostLevels] = units, shared.tiled = regular && queries < 1 << MsDeformAttnTilesPlan::kCountBit;
  }

  // To be called by all threads, which then wait for the table.
  template <class T>
  __device__ MsDeformAttnUnits(MsDeformAttnArguments<T> const& a, int part, int parts, Shared const& shared,
                               int* table) {
    tiled = shared.tiled;
    if (tiled) {
      first = 0, an_image = shared.begin[kMostLevels], all = a.batch * an_image;
      for (int i = threadIdx.x, level = 0; i < an_image; i += blockDim.x) {
        while (i >= shared.begin[level + 1]) ++level;
        table[i] = shared.strips[level].entry(shared.strips[level].own.first + i - shared.begin[level]);
      }
    } else {
      an_image = (a.queries + MsDeformAttnTilesPlan::kQueries - 1) / MsDeformAttnTilesPlan::kQueries;
      MsDeformAttnPart const own(a.batch * an_image, part, parts);
      first = own.first, all = own.count;
    }
  }
};

}  // namespace bridge
