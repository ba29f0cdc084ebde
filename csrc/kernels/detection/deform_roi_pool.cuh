// The kernels of deform_roi_pool: a direct one, which takes every call, and one for the usual layout.
#pragma once

#include "kernels/detection/deform_roi_pool_channels_first.cuh"

namespace bridge {

// The kernel of the usual layout where its table holds a region's taps.
template <class T>
cudaError_t launch_deform_roi_pool(DeformRoiPoolArguments<T> const& a, int multiprocessors, cudaStream_t stream) {
  if (a.count == 0 || a.channels == 0) return cudaSuccess;
  DeformRoiPlan const plan = a.channels_last ? DeformRoiPlan{} : deform_roi_plan(a, multiprocessors);
  return plan.shared ? launch_deform_roi_pool_channels_first(a, plan, stream)
                     : launch_deform_roi_pool_direct(a, stream);
}

}  // namespace bridge
