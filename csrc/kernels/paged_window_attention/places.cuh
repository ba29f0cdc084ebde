// Where the keys of a paged cache lie. The table is read ahead of the copies, so that none waits for it.
#pragma once

#include "kernels/common/attention.cuh"
#include "kernels/paged_window_attention/arguments.cuh"
#include "kernels/window_attention/rows.cuh"

namespace bridge {

// As AttentionRows, of sequences whose lengths differ.
template <class T>
struct PagedRows : AttentionRows<T> {
  PagedArguments<T> const& paged;

  __device__ PagedRows(PagedArguments<T> const& a, int tile_rows, int splits, int item)
      : AttentionRows<T>(a, tile_rows, splits, item), paged(a) {}

  __device__ KeyInterval keys(int row) const { return seen_keys(paged, this->batch, this->query(row)); }
  __device__ bool fits() const { return paged.fits(this->batch); }
};

constexpr int64_t kNowhere = -1;  // of a key that no row sees: it counts as zeros
constexpr int64_t kMissing = -2;  // of one whose page is not there: it counts as NaN, and so does what sees it

// Of a key and of its value, in elements from where their heads begin in the first page.
struct alignas(16) KeyPlace {
  int64_t k, v;
};

// What a thread has asked of the table: no arithmetic waits for the answer before place().
struct PlaceRequest {
  uint32_t low = 0, high = 0;  // of the page's number
  int row = -1;                // of the page; -1: no key

  template <class T>
  __device__ void ask(PagedArguments<T> const& a, int batch, int position, bool wanted) {
    row = -1;
    if (!wanted) return;
    int const place = a.page_of(position);
    int64_t const i = int64_t(batch) * a.table_width + place;
    auto const* const words = static_cast<uint32_t const*>(a.block_table.data);
    row = position - place * a.page_size;
    if (a.block_table.wide) {
      low = words[2 * i], high = words[2 * i + 1];
    } else {
      low = words[i];
    }
  }
  template <class T>
  __device__ KeyPlace place(PagedArguments<T> const& a) const {
    if (row < 0) return {kNowhere, kNowhere};
    if (high != 0 || low >= static_cast<uint32_t>(a.pages)) return {kMissing, kNowhere};
    return {low * a.k.strides.batch + row * a.k.strides.seq, low * a.v.strides.batch + row * a.v.strides.seq};
  }
};

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800

__device__ inline void store_place(uint32_t shared, KeyPlace const& place) {
  asm volatile("st.shared.v2.b64 [%0], {%1, %2};" ::"r"(shared), "l"(place.k), "l"(place.v) : "memory");
}
__device__ inline KeyPlace load_place(uint32_t shared) {
  KeyPlace place;
  asm volatile("ld.shared.v2.b64 {%0, %1}, [%2];" : "=l"(place.k), "=l"(place.v) : "r"(shared) : "memory");
  return place;
}

// Of float16 as of bfloat16.
static __device__ uint4 const kNanChunk = {0x7fff7fff, 0x7fff7fff, 0x7fff7fff, 0x7fff7fff};

// Copies 16 bytes of a row at a place; from: those of the row at place 0. inside: they are in the row.
template <class T>
__device__ void copy_place(uint32_t shared, T const* from, int64_t place, bool inside) {
  void const* const source = place < 0 ? static_cast<void const*>(&kNanChunk) : from + place;
  copy_async_or_zero(shared, source, inside && place != kNowhere);
}

#endif

}  // namespace bridge
