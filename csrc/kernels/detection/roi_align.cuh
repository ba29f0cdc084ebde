// The kernels of roi_align: a direct one, which takes every call, and one for each layout, which makes a table of a
// region's taps first.
#pragma once

#include "kernels/detection/roi_align_channels_first.cuh"
#include "kernels/detection/roi_align_channels_last.cuh"

namespace bridge {

// The kernel of x's layout where its tables fit, unless the direct one is asked for.
template <class T>
cudaError_t launch_roi_align(RoiAlignArguments<T> const& a, bool direct, int multiprocessors, cudaStream_t stream) {
  if (a.count == 0 || a.channels == 0) return cudaSuccess;
  RoiAlignPlan const plan =
      a.channels_last ? roi_align_channels_last_plan(a) : roi_align_channels_first_plan(a, multiprocessors);
  if (direct || plan.threads == 0) return launch_roi_align_direct(a, stream);
  return a.channels_last ? launch_roi_align_channels_last(a, plan, stream)
                         : launch_roi_align_channels_first(a, plan, stream);
}

}  // namespace bridge
