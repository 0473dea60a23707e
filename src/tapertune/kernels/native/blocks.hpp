// Products of a block of rows with a narrow factor. The block stays in the core's cache between two uses; what it is made
// of is read once, some rows ahead of use.

#pragma once

#include "simd.hpp"

namespace {

// ---- where a block of rows comes from ----------------------------------------------------------------------------------

// Rows as they lie in memory; far is where they are yet to be fetched from there.
template <class T, bool FAR> struct Plain {
  static constexpr bool made = false, far = FAR;
  const T *x;
  Index ld;
  const T *at(Index row) const { return x + row * ld; }
};

// erf of a vector. In float, an odd rational function fitted to |x| < 3.92, where erf is one to float's precision; off by
// 4e-7 at most.
inline Vec<float> erf_of(Vec<float> x) {
  constexpr float P[] = {1.12837902f, 1.92748695e-1f, 5.30584567e-2f, 3.86766001e-3f, 2.87462663e-4f, 2.03483615e-6f};
  constexpr float Q[] = {1.f, 5.04150757e-1f, 1.15078268e-1f, 1.51709767e-2f, 1.18794922e-3f, 3.80708029e-5f};
  const Vec<float> one = Vec<float>{} + 1.f, t = x * x;
  Vec<float> p = Vec<float>{} + P[5], q = Vec<float>{} + Q[5];
  for (int i = 4; i >= 0; i--) {
    p = p * t + P[i];
    q = q * t + Q[i];
  }
  const Vec<float> inside = x * p / q;
  // what is multiplied with x may not be next to nothing there, but nothing
  return x >= 3.92f ? one : (x <= -3.92f ? -one : inside);
}
inline Vec<double> erf_of(Vec<double> x) {
  for (Index l = 0; l < LANES<double>; l++) x[l] = std::erf(x[l]);
  return x;
}

// Rows of which something is made on the way, times a mask of zeros and ones, where there is one.
template <class T, class Of> struct Made {
  static constexpr bool made = true, far = false;
  const T *x;
  Index ld;
  const unsigned char *mask;
  Index mask_ld;
  Of of;
  void fill(T *out, Index out_ld, Index row, Index rows, Index col, Index cols) const {
    for (Index i = row; i < row + rows; i++, out += out_ld) {
      const T *from = x + i * ld + col;
      for (Index c = 0; c < cols; c += LANES<T>) {
        const Index count = smaller(LANES<T>, cols - c);
        __builtin_prefetch(from + AHEAD * ld + c);
        const Vec<T> v = of(load(from + c, count), i, col + c, count);
        store(out + c, mask ? v * masks<T>(mask + i * mask_ld + col + c, count) : v, count);
      }
    }
  }
};
template <class T, class Of>
Made<T, Of> made(const T *x, Index ld, const unsigned char *mask, Index mask_ld, Of of) {
  return {x, ld, mask, mask_ld, of};
}

// What is made of a vector of row i from column c on.
template <class T> struct Same {
  Vec<T> operator()(Vec<T> v, Index, Index, Index) const { return v; }
};
// A layer norm, by its statistics.
template <class T> struct Norm {
  const T *mean, *rstd, *weight, *bias;
  Vec<T> operator()(Vec<T> v, Index i, Index c, Index count) const {
    return (v - mean[i]) * rstd[i] * load(weight + c, count) + load(bias + c, count);
  }
};
// x Phi(x) of the normal distribution function.
template <class T> struct Gelu {
  Vec<T> operator()(Vec<T> v, Index, Index, Index) const {
    constexpr T ROOT = static_cast<T>(0.70710678118654752440);
    return v * T(0.5) * (erf_of(v * ROOT) + T(1));
  }
};

// ---- products ----------------------------------------------------------------------------------------------------------

template <class T> struct Part {
  const T *from;
  Index ld;
};

// some columns of a block of rows, where they lie or, if they have to be made, in a room of rows of `wide`
template <class T, class Source>
inline Part<T> part_of(const Source &x, Index row, Index rows, Index col, Index cols, T *room, Index wide) {
  if constexpr (Source::made) {
    x.fill(room, wide, row, rows, col, cols);
    return {room, wide};
  } else {
    return {x.at(row) + col, x.ld};
  }
}

// z (R, J) (+)= x (R, w) m' of m (J, w)
template <class T, int R, int J, bool FETCH>
inline void dots(const T *x, Index ldx, const T *m, Index ldm, Index w, T *z, Index ldz, bool add) {
  Vec<T> sum[R * J] = {};
  Index c = 0;
  for (; c + LANES<T> <= w; c += LANES<T>) {
    Vec<T> xs[R];
    for (int i = 0; i < R; i++) {
      xs[i] = load(x + i * ldx + c);
      if (FETCH) __builtin_prefetch(x + (i + AHEAD) * ldx + c);
    }
    for (int j = 0; j < J; j++) {
      const Vec<T> ms = load(m + j * ldm + c);
      for (int i = 0; i < R; i++) sum[i * J + j] += xs[i] * ms;
    }
  }
  T out[R * J];
  sums<T, R * J>(sum, out);
  for (; c < w; c++)
    for (int i = 0; i < R; i++)
      for (int j = 0; j < J; j++) out[i * J + j] += x[i * ldx + c] * m[j * ldm + c];
  for (int i = 0; i < R; i++)
    for (int j = 0; j < J; j++) z[i * ldz + j] = out[i * J + j] + (add ? z[i * ldz + j] : 0);
}

template <class T, int R, bool FETCH>
inline void dots_of_rows(const T *x, Index ldx, const T *m, Index ldm, Index w, Index r, T *z, Index ldz, bool add) {
  Index j = 0;
  for (; j + RANKS <= r; j += RANKS) dots<T, R, RANKS, FETCH>(x, ldx, m + j * ldm, ldm, w, z + j, ldz, add);
  for (; j < r; j++) dots<T, R, 1, FETCH>(x, ldx, m + j * ldm, ldm, w, z + j, ldz, add);
}

// columns whose factor stays in the innermost cache, a multiple of a tile's
template <class T> Index chunk(Index w, Index r) {
  const Index tile = WIDE * LANES<T>;
  return smaller(w, (CACHED / (r ? r : 1) + tile) / tile * tile);
}

// z (n, r) = x m' for a block of rows
template <class T, class Source>
void project_block(const Source &x, Index row, Index n, const T *m, Index w, Index r, T *z, Index ldz, T *room) {
  const Index step = chunk<T>(w, r);
  for (Index c = 0; c < w; c += step) {
    const Index cols = smaller(step, w - c);
    const auto [from, ld] = part_of(x, row, n, c, cols, room, step);
    Index i = 0;
    for (; i + TALL <= n; i += TALL)
      dots_of_rows<T, TALL, Source::far>(from + i * ld, ld, m + c, w, cols, r, z + i * ldz, ldz, c > 0);
    for (; i < n; i++) dots_of_rows<T, 1, Source::far>(from + i * ld, ld, m + c, w, cols, r, z + i * ldz, ldz, c > 0);
  }
}

// y (R, C vectors) = z m + bias, or (z m) * mask
template <class T, int R, int C>
inline void spread_tile(T *y, Index ldy, const T *bias, const T *z, Index ldz, const T *m, Index ldm, Index r,
                        const unsigned char *mask, Index mask_ld) {
  Vec<T> sum[R][C];
  for (int i = 0; i < R; i++)
    for (int c = 0; c < C; c++) {
      __builtin_prefetch(y + (i + AHEAD) * ldy + c * LANES<T>, 1);
      sum[i][c] = bias ? load(bias + c * LANES<T>) : Vec<T>{};
    }
  for (Index j = 0; j < r; j++) {
    Vec<T> ms[C];
    for (int c = 0; c < C; c++) ms[c] = load(m + j * ldm + c * LANES<T>);
    for (int i = 0; i < R; i++) {
      const T s = z[i * ldz + j];
      for (int c = 0; c < C; c++) sum[i][c] += s * ms[c];
    }
  }
  for (int i = 0; i < R; i++)
    for (int c = 0; c < C; c++) {
      if (mask) sum[i][c] *= masks<T>(mask + i * mask_ld + c * LANES<T>);
      store(y + i * ldy + c * LANES<T>, sum[i][c]);
    }
}

template <class T, int R>
inline void expand_rows(T *y, Index ldy, const T *bias, const T *z, Index ldz, const T *m, Index ldm, Index w, Index r,
                     const unsigned char *mask, Index mask_ld) {
  const auto keep = [mask](Index c) { return mask ? mask + c : nullptr; };
  const auto on = [bias](Index c) { return bias ? bias + c : nullptr; };
  Index c = 0;
  for (; c + WIDE * LANES<T> <= w; c += WIDE * LANES<T>)
    spread_tile<T, R, WIDE>(y + c, ldy, on(c), z, ldz, m + c, ldm, r, keep(c), mask_ld);
  for (; c + LANES<T> <= w; c += LANES<T>)
    spread_tile<T, R, 1>(y + c, ldy, on(c), z, ldz, m + c, ldm, r, keep(c), mask_ld);
  for (; c < w; c++)
    for (int i = 0; i < R; i++) {
      T sum = bias ? bias[c] : 0;
      for (Index j = 0; j < r; j++) sum += z[i * ldz + j] * m[j * ldm + c];
      y[i * ldy + c] = mask ? sum * static_cast<T>(mask[i * mask_ld + c]) : sum;
    }
}

// d (J, C vectors) += z' x of z (n, J)
template <class T, int J, int C, bool FETCH>
inline void outer_tile(T *d, Index ldd, const T *z, Index ldz, const T *x, Index ldx, Index n) {
  Vec<T> sum[J][C];
  for (int j = 0; j < J; j++)
    for (int c = 0; c < C; c++) sum[j][c] = load(d + j * ldd + c * LANES<T>);
  for (Index i = 0; i < n; i++) {
    Vec<T> xs[C];
    for (int c = 0; c < C; c++) {
      xs[c] = load(x + i * ldx + c * LANES<T>);
      if (FETCH) __builtin_prefetch(x + (i + AHEAD) * ldx + c * LANES<T>);
    }
    for (int j = 0; j < J; j++) {
      const T s = z[i * ldz + j];
      for (int c = 0; c < C; c++) sum[j][c] += s * xs[c];
    }
  }
  for (int j = 0; j < J; j++)
    for (int c = 0; c < C; c++) store(d + j * ldd + c * LANES<T>, sum[j][c]);
}

template <class T, int J, bool FETCH>
inline void outer_columns(T *d, Index ldd, const T *z, Index ldz, const T *x, Index ldx, Index n, Index w) {
  Index c = 0;
  if (w == WIDE * LANES<T>) return outer_tile<T, J, WIDE, FETCH>(d, ldd, z, ldz, x, ldx, n);
  for (; c + LANES<T> <= w; c += LANES<T>) outer_tile<T, J, 1, FETCH>(d + c, ldd, z, ldz, x + c, ldx, n);
  for (; c < w; c++)
    for (int j = 0; j < J; j++)
      for (Index i = 0; i < n; i++) d[j * ldd + c] += z[i * ldz + j] * x[i * ldx + c];
}

// d (r, w) += z' x for a block of rows
template <class T, class Source>
void outer_block(const Source &x, Index row, Index n, const T *z, Index ldz, T *d, Index w, Index r, T *room) {
  constexpr Index TILE = WIDE * LANES<T>;
  for (Index c = 0; c < w; c += TILE) {
    const Index cols = smaller(TILE, w - c);
    const auto [from, ld] = part_of(x, row, n, c, cols, room, TILE);
    Index j = 0;
    for (; j + TALL <= r; j += TALL)
      outer_columns<T, TALL, Source::far>(d + j * w + c, w, z + j, ldz, from, ld, n, cols);
    for (; j < r; j++) outer_columns<T, 1, Source::far>(d + j * w + c, w, z + j, ldz, from, ld, n, cols);
  }
}

}  // namespace
