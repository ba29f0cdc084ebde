// What the kernels of attention over a paged cache are given, beside what those of window attention are.
#pragma once

#include "kernels/window_attention/arguments.cuh"

namespace bridge {

// A table of int32 or int64.
struct IndexTable {
  void const* data;
  bool wide;

  __device__ int64_t at(int64_t i) const {
    return wide ? static_cast<int64_t const*>(data)[i] : int64_t(static_cast<int32_t const*>(data)[i]);
  }
};

// Quotients of numbers below 2^31 by a multiplication: with 2^(s - 1) < size <= 2^s and a multiplier of
// 2^(31 + s) / size, rounded up, the error of a product is below 2^(31 + s) (Granlund and Montgomery,
// https://doi.org/10.1145/178243.178249, section 4).
class PageDivision {
 public:
  PageDivision() = default;
  constexpr explicit PageDivision(int size) {
    int bits = 0;
    while (int64_t(1) << bits < size) ++bits;
    if (bits == 0) return;
    multiplier_ = static_cast<uint32_t>(((uint64_t(1) << (31 + bits)) + size - 1) / size), shift_ = bits - 1;
  }
  __host__ __device__ constexpr int operator()(int position) const {
    if (multiplier_ == 0) return position;  // pages of one key
    return static_cast<int>(uint64_t(position) * multiplier_ >> 32 >> shift_);
  }

 private:
  uint32_t multiplier_ = 0;
  int shift_ = 0;
};
static_assert(PageDivision(1)(INT32_MAX) == INT32_MAX && PageDivision(2)(INT32_MAX) == INT32_MAX / 2);
static_assert(PageDivision(16)(4095) == 255 && PageDivision(16)(4096) == 256 && PageDivision(48)(95) == 1);
static_assert(PageDivision(7)(INT32_MAX) == INT32_MAX / 7 && PageDivision(7)(7 * 999 - 1) == 998);
static_assert(PageDivision(INT32_MAX)(INT32_MAX) == 1 && PageDivision(INT32_MAX)(INT32_MAX - 1) == 0);
static_assert(PageDivision((1 << 30) + 1)(1 << 30) == 0 && PageDivision((1 << 30) + 1)((1 << 30) + 1) == 1);

// Strides of k and v by batch are from page to page, those by seq from key to key of a page; `keys` is the most that a
// row of the table has room for.
template <class T>
struct PagedArguments : WindowAttentionArguments<T> {
  IndexTable block_table, lengths;  // [batch, table_width], [batch]
  int pages, page_size, table_width;
  PageDivision page_of;

  // Whether the table has room for as many keys as a batch element is said to have.
  __device__ bool fits(int batch) const {
    int64_t const length = lengths.at(batch);
    return length >= 0 && length <= this->keys;
  }
  __device__ int length(int batch) const { return fits(batch) ? static_cast<int>(lengths.at(batch)) : 0; }
};

}  // namespace bridge
