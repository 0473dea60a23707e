// A weight with an update under LoRAN's map, M = f(B A) with f(m) = m + amplitude m sin(omega m), for a processor.
//
// The update is as large as the weight. Made by whole-tensor operations it passes through memory a dozen times; here a tile
// of it is multiplied out, mapped and added to the weight in registers, and its gradient taken to the factors block by
// block.

#include <cstdint>
#include <type_traits>

#include "blocks.hpp"

namespace {

template <class T> struct Wave {
  Vec<T> sin, cos;
};

typedef std::int32_t Integers __attribute__((vector_size(BYTES)));
typedef std::int64_t Words __attribute__((vector_size(BYTES)));

inline bool any(Integers mask) {
  const Words w = reinterpret_cast<Words>(mask);
  std::int64_t all = 0;
  for (int i = 0; i < BYTES / 8; i++) all |= w[i];
  return all != 0;
}

// whether an angle is too far out for `near`
inline Integers far_out(Vec<float> x) {
#if defined(__FMA__) || defined(__aarch64__)
  constexpr float FAR = 1e6f;
#else
  constexpr float FAR = 6e3f;  // up to where the parts of pi / 2 times a whole number are exact
#endif
  return ~((x < FAR) & (x > -FAR));
}

// Of x less the nearest multiple of pi / 2, taken off in three parts: within 2e-7. The polynomials are fitted to
// |x| < pi / 4.
inline Wave<float> near(Vec<float> x) {
  constexpr float TURN = 0.6366197723675814f, ROUND = 12582912.f;  // 1.5 * 2^23: adding it rounds
  const Vec<float> k = (x * TURN + ROUND) - ROUND;
  const Integers quarter = __builtin_convertvector(k, Integers);
  Vec<float> r = x - k * 1.5703125f;
  r = r - k * 4.837512969970703e-4f;
  r = r - k * 7.549790126404332e-8f;
  const Vec<float> t = r * r;
  const Vec<float> s = r + r * t * ((-1.9516658e-4f * t + 8.3321736e-3f) * t - 1.6666655e-1f);
  const Vec<float> c = 1.f - 0.5f * t + t * t * ((2.4437728e-5f * t - 1.3887361e-3f) * t + 4.1666647e-2f);
  // the signs of sine and cosine from the quarter's bits
  const Integers low = (quarter & 2) << 30, left = ((quarter + 1) & 2) << 30;
  const Integers odd = (quarter & 1) != 0;
  const Vec<float> sin = odd ? c : s, cos = odd ? s : c;
  return {reinterpret_cast<Vec<float>>(reinterpret_cast<Integers>(sin) ^ low),
          reinterpret_cast<Vec<float>>(reinterpret_cast<Integers>(cos) ^ left)};
}

template <class T, bool NEAR> inline Wave<T> wave(Vec<T> x) {
  if constexpr (NEAR) {
    return near(x);
  } else {
    Wave<T> w;
    for (Index l = 0; l < LANES<T>; l++) {
      w.sin[l] = std::sin(x[l]);
      w.cos[l] = std::cos(x[l]);
    }
    return w;
  }
}

template <class T> struct Map {
  T amplitude, omega;
  // f(m), and g times f'(m)
  template <bool NEAR> inline Vec<T> value(Vec<T> m) const {
    return m + m * (amplitude * wave<T, NEAR>(m * omega).sin);
  }
  template <bool NEAR> inline Vec<T> value(Vec<T> m, Vec<T> &g) const {
    const Vec<T> angle = m * omega;
    const Wave<T> w = wave<T, NEAR>(angle);
    g *= T(1) + amplitude * (w.sin + angle * w.cos);
    return m + m * (amplitude * w.sin);
  }
};

// C vectors of columns of R rows, the last one of them with `last` lanes: sum = weight + scale f(b a), where there is a
// weight; g *= f'(b a), where there is a g
template <class T, int R, int C>
inline void tile(const Map<T> &map, const T *b, Index r, const T *a, Index w, const T *weight, T scale, T *sum, T *g,
                 Index last) {
  Vec<T> m[R][C] = {};
  for (int i = 0; i < R; i++)
    for (int c = 0; c < C; c++) {
      if (weight) __builtin_prefetch(weight + (i + AHEAD) * w + c * LANES<T>);
      if (weight) __builtin_prefetch(sum + (i + AHEAD) * w + c * LANES<T>, 1);
      if (g) __builtin_prefetch(g + (i + AHEAD) * w + c * LANES<T>, 1);
    }
  const auto get = [&](const T *p, int c) { return load(p + c * LANES<T>, c + 1 < C ? LANES<T> : last); };
  const auto set = [&](T *p, int c, Vec<T> v) { store(p + c * LANES<T>, v, c + 1 < C ? LANES<T> : last); };
  for (Index j = 0; j < r; j++) {
    Vec<T> as[C];
    for (int c = 0; c < C; c++) as[c] = get(a + j * w, c);
    for (int i = 0; i < R; i++)
      for (int c = 0; c < C; c++) m[i][c] += b[i * r + j] * as[c];
  }
  const auto finish = [&](auto is_near) {
    constexpr bool NEAR = decltype(is_near)::value;
    for (int i = 0; i < R; i++)
      for (int c = 0; c < C; c++) {
        Vec<T> value;
        if (g) {
          Vec<T> slope = get(g + i * w, c);
          value = map.template value<NEAR>(m[i][c], slope);
          set(g + i * w, c, slope);
        } else {
          value = map.template value<NEAR>(m[i][c]);
        }
        if (weight) set(sum + i * w, c, get(weight + i * w, c) + scale * value);
      }
  };
  if constexpr (std::is_same_v<T, float>) {
    Integers far = {};
    for (int i = 0; i < R; i++)
      for (int c = 0; c < C; c++) far |= far_out(m[i][c] * map.omega);
    if (!any(far)) return finish(std::true_type{});
  }
  finish(std::false_type{});
}

template <class T, int R>
inline void tiles(const Map<T> &map, const T *b, Index r, const T *a, Index w, const T *weight, T scale, T *sum, T *g) {
  const auto at = [](auto *p, Index c) { return p ? p + c : nullptr; };
  constexpr Index L = LANES<T>;
  Index c = 0;
  for (; c + WIDE * L <= w; c += WIDE * L)
    tile<T, R, WIDE>(map, b, r, a + c, w, at(weight, c), scale, at(sum, c), at(g, c), L);
  for (; c < w; c += L)
    tile<T, R, 1>(map, b, r, a + c, w, at(weight, c), scale, at(sum, c), at(g, c), smaller(L, w - c));
}

// sum (n, w) = weight + scale f(b a) of b (n, r) and a (r, w), where there is a weight; and of scale times a gradient g
// (n, w) of f(b a), which is overwritten, what reaches b (n, r) and a (r, w): into db and da, where they are wanted
template <class T>
void sinter(Index n, Index w, Index r, const T *b, const T *a, T amplitude, T omega, T scale, const T *weight, T *sum,
            T *g, T *db, T *da) {
  const Map<T> map{amplitude, omega};
  Sums<T> sums(da, da ? r * w : 0, da ? threads(n, w) : 1);
  over_rows<T>(n, w, 0, [&](int t, Index first, Index rows, T *) {
    const auto row = [w](auto *p, Index i) { return p ? p + i * w : nullptr; };
    const Index end = first + rows;
    Index i = first;
    for (; i + TALL <= end; i += TALL)
      tiles<T, TALL>(map, b + i * r, r, a, w, row(weight, i), scale, row(sum, i), row(g, i));
    for (; i < end; i++) tiles<T, 1>(map, b + i * r, r, a, w, row(weight, i), scale, row(sum, i), row(g, i));
    const Plain<T, false> near{g, w};
    if (db) project_block<T>(near, first, rows, a, w, r, db + first * r, r, nullptr);
    if (da) outer_block<T>(near, first, rows, b + first * r, r, sums.of(t), w, r, nullptr);
  });
  sums.add(scale);
  if (db && scale != T(1))
    for (Index i = 0; i < n * r; i++) db[i] *= scale;
}

}  // namespace

#define EXPORTED(T, NAME)                                                                                              \
  void NAME##_sinter(Index n, Index w, Index r, const T *b, const T *a, double amplitude, double omega, double scale,  \
                     const T *weight, T *sum, T *g, T *db, T *da) {                                                    \
    sinter<T>(n, w, r, b, a, static_cast<T>(amplitude), static_cast<T>(omega), static_cast<T>(scale), weight, sum, g,  \
              db, da);                                                                                                 \
  }

extern "C" {
EXPORTED(float, float32)
EXPORTED(double, float64)
}
