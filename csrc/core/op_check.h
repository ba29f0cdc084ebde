// What the compiler says of an op struct that lacks something: one line, instead of pages of template notes.
#pragma once

#include <type_traits>
#include <vector>

namespace bridge {

template <class T, class = void>
constexpr bool kHasName = false;
template <class T>
constexpr bool kHasName<T, std::enable_if_t<std::is_convertible_v<decltype(T::name), char const*>>> = true;

template <class T, class Param, class = void>
constexpr bool kHasInputs = false;
template <class T, class Param>
constexpr bool kHasInputs<T, Param, std::enable_if_t<std::is_same_v<decltype(T::inputs()), std::vector<Param>>>> = true;

template <class T, class Param, class = void>
constexpr bool kHasOutputs = false;
template <class T, class Param>
constexpr bool kHasOutputs<T, Param, std::enable_if_t<std::is_same_v<decltype(T::outputs()), std::vector<Param>>>> =
    true;

// Whether a struct inherits the pure function itself: then a pointer to it is one to a member of Op.
template <class T, class Op, class = void>
constexpr bool kLacksShapes = false;
template <class T, class Op>
constexpr bool kLacksShapes<T, Op, std::enable_if_t<std::is_same_v<decltype(&T::shapes), decltype(&Op::shapes)>>> =
    true;

template <class T, class Op, class = void>
constexpr bool kLacksRun = false;
template <class T, class Op>
constexpr bool kLacksRun<T, Op, std::enable_if_t<std::is_same_v<decltype(&T::run), decltype(&Op::run)>>> = true;

// Whether T can be registered. Op and Param are op.h's.
template <class T, class Op, class Param>
constexpr bool check_op_struct() {
  constexpr bool derives = std::is_base_of_v<Op, T>;
  constexpr bool lacks = kLacksShapes<T, Op> || kLacksRun<T, Op>;
  constexpr bool complete = !std::is_abstract_v<T> || lacks;
  static_assert(derives, "an op struct derives from bridge::Op: struct Corr final : bridge::Op");
  static_assert(kHasName<T>, "an op struct has a public name: static constexpr char const* name = \"corr\";");
  static_assert(kHasInputs<T, Param>, "an op struct has public inputs: static std::vector<bridge::Param> inputs()");
  static_assert(kHasOutputs<T, Param>, "an op struct has public outputs: static std::vector<bridge::Param> outputs()");
  static_assert(!kLacksShapes<T, Op>,
                "an op struct lacks: void shapes(bridge::Shape const* in, bridge::Shape* out) const override");
  static_assert(!kLacksRun<T, Op>,
                "an op struct lacks: cudaError_t run(bridge::Tensor const* in, bridge::Tensor const* out, void* "
                "workspace, cudaStream_t stream) const override");
  static_assert(complete, "shapes or run of an op struct has other parameters than bridge::Op's, or is not const");
  return derives && kHasName<T> && kHasInputs<T, Param> && kHasOutputs<T, Param> && !std::is_abstract_v<T>;
}

}  // namespace bridge
