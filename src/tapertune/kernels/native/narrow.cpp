// Products of activations with narrow factors, for a processor.
//
// An activation is (n, w) with n tokens and some hundreds to thousands of columns, a factor (r, w) with a rank r of a few
// dozen at most. Such a product does about as many multiplications as it takes time to read the activation, which large
// products have pushed out of the core's cache by then. So every function here reads its activation once, some rows ahead of
// use, and does everything with it that there is to do: two products of one output gradient, or an input that is made
// again on the way.
//
// Plain C++17 and the vector extensions that GCC and Clang share; no headers of torch. All sums are in the type of their
// operands. With several threads, rows are shared out evenly, and sums over rows are added up in the order of threads.

#include <cmath>
#include <cstddef>
#include <utility>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define HAS_SHUFFLE 1
#endif
#endif

namespace {

using Index = std::ptrdiff_t;

template <class T> struct VectorOf;
template <> struct VectorOf<float> {
  typedef float type __attribute__((vector_size(64), aligned(4), may_alias));
};
template <> struct VectorOf<double> {
  typedef double type __attribute__((vector_size(64), aligned(8), may_alias));
};
template <class T> using Vec = typename VectorOf<T>::type;
template <class T> constexpr Index LANES = 64 / sizeof(T);

template <class T> inline Vec<T> load(const T *p) { return *reinterpret_cast<const Vec<T> *>(p); }
template <class T> inline void store(T *p, Vec<T> v) { *reinterpret_cast<Vec<T> *>(p) = v; }
template <class T> inline Vec<T> masks(const unsigned char *p) {
  Vec<T> v;
  for (Index l = 0; l < LANES<T>; l++) v[l] = static_cast<T>(p[l]);
  return v;
}

constexpr Index ROWS = 32;    // of a block that stays in the core's cache between two uses
constexpr Index TALL = 4;     // rows, and ranks, that one pass over a row works on: their sums fill half the registers
constexpr Index WIDE = 4;     // vectors of columns, likewise
constexpr Index AHEAD = 8;    // rows between what is fetched and what is used
constexpr Index CACHED = 6144;  // elements of a factor that stay in the innermost cache beside the rows

Index smaller(Index a, Index b) { return a < b ? a : b; }

// ---- sums over lanes -------------------------------------------------------------------------------------------------

#ifdef HAS_SHUFFLE
// a and b hold sums in groups of G lanes; the result holds those of a, then those of b, in groups of G / 2
template <class T, int G, int... I> inline Vec<T> halved(Vec<T> a, Vec<T> b, std::integer_sequence<int, I...>) {
  constexpr int L = LANES<T>, H = G / 2, N = L / G;
  return __builtin_shufflevector(a, b, ((I / H) < N ? (I / H) * G + I % H : L + (I / H - N) * G + I % H)...) +
         __builtin_shufflevector(a, b, ((I / H) < N ? (I / H) * G + I % H + H : L + (I / H - N) * G + I % H + H)...);
}

template <class T, int N, int G> inline void halve(Vec<T> *v) {
  if constexpr (G > 1) {
    for (int i = 0; i < (N + 1) / 2; i++)
      v[i] = halved<T, G>(v[2 * i], v[2 * i + (2 * i + 1 < N)], std::make_integer_sequence<int, LANES<T>>{});
    halve<T, (N + 1) / 2, G / 2>(v);
  }
}
#endif

// the sum of each of N vectors, a power of two
template <class T, int N> inline void sums(Vec<T> *v, T *out) {
#ifdef HAS_SHUFFLE
  constexpr int L = LANES<T>, S = N < L ? N : L;
  for (int i = 0; i < N; i += S) {
    halve<T, S, L>(v + i);
    for (int k = 0; k < S; k++) out[i + k] = v[i][k];
  }
#else
  for (int i = 0; i < N; i++) {
    out[i] = 0;
    for (Index l = 0; l < LANES<T>; l++) out[i] += v[i][l];
  }
#endif
}

// ---- where a block of rows comes from ----------------------------------------------------------------------------------

// Rows as they lie in memory; far is where they are yet to be fetched from there.
template <class T, bool FAR> struct Plain {
  static constexpr bool made = false, far = FAR;
  const T *x;
  Index ld;
  const T *at(Index row) const { return x + row * ld; }
};

// Rows times a mask of zeros and ones.
template <class T> struct Masked {
  static constexpr bool made = true, far = false;
  const T *x;
  Index ld;
  const unsigned char *mask;
  Index mask_ld;
  void fill(T *out, Index out_ld, Index row, Index rows, Index col, Index cols) const {
    for (Index i = row; i < row + rows; i++, out += out_ld) {
      const T *from = x + i * ld + col;
      const unsigned char *keep = mask + i * mask_ld + col;
      Index c = 0;
      for (; c + LANES<T> <= cols; c += LANES<T>) {
        __builtin_prefetch(from + AHEAD * ld + c);
        store(out + c, load(from + c) * masks<T>(keep + c));
      }
      for (; c < cols; c++) out[c] = from[c] * static_cast<T>(keep[c]);
    }
  }
};

// The output of a layer norm, from its input, mean and reciprocal standard deviation; times a mask, where there is one.
template <class T> struct Normed {
  static constexpr bool made = true, far = false;
  const T *x;
  Index ld;
  const T *mean, *rstd, *weight, *bias;
  const unsigned char *mask;
  Index mask_ld;
  void fill(T *out, Index out_ld, Index row, Index rows, Index col, Index cols) const {
    for (Index i = row; i < row + rows; i++, out += out_ld) {
      const T *from = x + i * ld + col;
      const unsigned char *keep = mask ? mask + i * mask_ld + col : nullptr;
      const T m = mean[i], s = rstd[i];
      Index c = 0;
      for (; c + LANES<T> <= cols; c += LANES<T>) {
        __builtin_prefetch(from + AHEAD * ld + c);
        Vec<T> v = (load(from + c) - m) * s * load(weight + col + c) + load(bias + col + c);
        store(out + c, keep ? v * masks<T>(keep + c) : v);
      }
      for (; c < cols; c++) {
        T v = (from[c] - m) * s * weight[col + c] + bias[col + c];
        out[c] = keep ? v * static_cast<T>(keep[c]) : v;
      }
    }
  }
};

// erf of a vector. In float, an odd rational function fitted to |x| < 3.92, where erf is one to float's precision; off by
// 4e-7 at most.
inline Vec<float> erf_of(Vec<float> x) {
  constexpr float P[] = {1.12837902f, 1.92748695e-1f, 5.30584567e-2f, 3.86766001e-3f, 2.87462663e-4f, 2.03483615e-6f};
  constexpr float Q[] = {1.f, 5.04150757e-1f, 1.15078268e-1f, 1.51709767e-2f, 1.18794922e-3f, 3.80708029e-5f};
  const Vec<float> end = Vec<float>{} + 3.92f;
  x = x > end ? end : x;
  x = x < -end ? -end : x;
  const Vec<float> t = x * x;
  Vec<float> p = Vec<float>{} + P[5], q = Vec<float>{} + Q[5];
  for (int i = 4; i >= 0; i--) {
    p = p * t + P[i];
    q = q * t + Q[i];
  }
  return x * p / q;
}
inline Vec<double> erf_of(Vec<double> x) {
  for (Index l = 0; l < LANES<double>; l++) x[l] = std::erf(x[l]);
  return x;
}

// x Phi(x) of the normal distribution function; times a mask, where there is one.
template <class T> struct Gelu {
  static constexpr bool made = true, far = false;
  const T *x;
  Index ld;
  const unsigned char *mask;
  Index mask_ld;
  void fill(T *out, Index out_ld, Index row, Index rows, Index col, Index cols) const {
    constexpr T ROOT = static_cast<T>(0.70710678118654752440);
    for (Index i = row; i < row + rows; i++, out += out_ld) {
      const T *from = x + i * ld + col;
      const unsigned char *keep = mask ? mask + i * mask_ld + col : nullptr;
      Index c = 0;
      for (; c + LANES<T> <= cols; c += LANES<T>) {
        __builtin_prefetch(from + AHEAD * ld + c);
        const Vec<T> v = load(from + c), y = v * T(0.5) * (erf_of(v * ROOT) + T(1));
        store(out + c, keep ? y * masks<T>(keep + c) : y);
      }
      for (; c < cols; c++) {
        const T y = from[c] * T(0.5) * (std::erf(from[c] * ROOT) + T(1));
        out[c] = keep ? y * static_cast<T>(keep[c]) : y;
      }
    }
  }
};

// ---- products ----------------------------------------------------------------------------------------------------------

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
  for (; j + TALL <= r; j += TALL) dots<T, R, TALL, FETCH>(x, ldx, m + j * ldm, ldm, w, z + j, ldz, add);
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
    const T *from;
    Index ld;
    if constexpr (Source::made) {
      x.fill(room, ld = step, row, n, c, cols);
      from = room;
    } else {
      from = x.at(row) + c;
      ld = x.ld;
    }
    Index i = 0;
    for (; i + TALL <= n; i += TALL) dots_of_rows<T, TALL, Source::far>(from + i * ld, ld, m + c, w, cols, r, z + i * ldz, ldz, c > 0);
    for (; i < n; i++) dots_of_rows<T, 1, Source::far>(from + i * ld, ld, m + c, w, cols, r, z + i * ldz, ldz, c > 0);
  }
}

// y (R, C vectors) = start + (z m) * mask
template <class T, int R, int C>
inline void spread_tile(T *y, Index ldy, const T *start, Index lds, const T *z, Index ldz, const T *m, Index ldm, Index r,
                        const unsigned char *mask, Index mask_ld) {
  Vec<T> sum[R][C];
  for (int i = 0; i < R; i++)
    for (int c = 0; c < C; c++) {
      __builtin_prefetch(y + (i + AHEAD) * ldy + c * LANES<T>, 1);
      sum[i][c] = mask || !start ? Vec<T>{} : load(start + i * lds + c * LANES<T>);
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
      if (mask && start) sum[i][c] += load(start + i * lds + c * LANES<T>);
      store(y + i * ldy + c * LANES<T>, sum[i][c]);
    }
}

template <class T, int R>
inline void spread_rows(T *y, Index ldy, const T *start, Index lds, const T *z, Index ldz, const T *m, Index ldm, Index w, Index r,
                     const unsigned char *mask, Index mask_ld) {
  const auto keep = [mask](Index c) { return mask ? mask + c : nullptr; };
  const auto on = [start](Index c) { return start ? start + c : nullptr; };
  Index c = 0;
  for (; c + WIDE * LANES<T> <= w; c += WIDE * LANES<T>)
    spread_tile<T, R, WIDE>(y + c, ldy, on(c), lds, z, ldz, m + c, ldm, r, keep(c), mask_ld);
  for (; c + LANES<T> <= w; c += LANES<T>) spread_tile<T, R, 1>(y + c, ldy, on(c), lds, z, ldz, m + c, ldm, r, keep(c), mask_ld);
  for (; c < w; c++)
    for (int i = 0; i < R; i++) {
      T sum = 0;
      for (Index j = 0; j < r; j++) sum += z[i * ldz + j] * m[j * ldm + c];
      if (mask) sum *= static_cast<T>(mask[i * mask_ld + c]);
      y[i * ldy + c] = start ? start[i * lds + c] + sum : sum;
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
    const T *from;
    Index ld;
    if constexpr (Source::made) {
      x.fill(room, ld = TILE, row, n, c, cols);
      from = room;
    } else {
      from = x.at(row) + c;
      ld = x.ld;
    }
    Index j = 0;
    for (; j + TALL <= r; j += TALL) outer_columns<T, TALL, Source::far>(d + j * w + c, w, z + j, ldz, from, ld, n, cols);
    for (; j < r; j++) outer_columns<T, 1, Source::far>(d + j * w + c, w, z + j, ldz, from, ld, n, cols);
  }
}

// ---- threads -----------------------------------------------------------------------------------------------------------

constexpr Index WORTH = 1 << 16;  // elements of an activation that are worth a second thread

int threads(Index n, Index w) {
#ifdef _OPENMP
  return n * w < WORTH || omp_in_parallel() ? 1 : static_cast<int>(smaller(omp_get_max_threads(), (n + ROWS - 1) / ROWS));
#else
  (void)n, (void)w;
  return 1;
#endif
}

int thread() {
#ifdef _OPENMP
  return omp_get_thread_num();
#else
  return 0;
#endif
}

template <class T> T *scratch(Index size) {
  static thread_local std::vector<T> room;
  if (room.size() < static_cast<std::size_t>(size)) room.resize(size);
  return room.data();
}

// each block of rows, with room for what is made of it
template <class T, class Do> void over_rows(Index n, Index w, Index room, Do &&each) {
  const int count = threads(n, w);
  const Index blocks = (n + ROWS - 1) / ROWS;
#pragma omp parallel num_threads(count) if (count > 1)
  {
    const int t = count > 1 ? thread() : 0;
    T *mine = scratch<T>(room);
    for (Index b = blocks * t / count; b < blocks * (t + 1) / count; b++)
      each(t, b * ROWS, smaller(ROWS, n - b * ROWS), mine);
  }
}

// a factor (r, w) with its rows times coef and scale, one row after another
template <class T>
const T *packed(std::vector<T> &room, const T *m, Index row, Index col, const T *coef, T scale, Index r, Index w) {
  if (col == 1 && row == w && !coef && scale == T(1)) return m;
  room.resize(r * w);
  for (Index j = 0; j < r; j++) {
    const T s = coef ? scale * coef[j] : scale;
    for (Index c = 0; c < w; c++) room[j * w + c] = s * m[j * row + c * col];
  }
  return room.data();
}

// sums of several threads, in the first one's place
template <class T> struct Sums {
  std::vector<T> more;
  T *first;
  Index size;
  Sums(T *d, Index size, int count) : more(size * (count - 1)), first(d), size(size) {
    for (Index i = 0; i < size; i++) d[i] = 0;
  }
  T *of(int t) { return t ? more.data() + size * (t - 1) : first; }
  void add(T scale) {
    for (std::size_t i = 0; i < more.size(); i++) first[i % size] += more[i];
    if (scale != T(1))
      for (Index i = 0; i < size; i++) first[i] *= scale;
  }
};

// ---- what is called ----------------------------------------------------------------------------------------------------

template <class T>
void project(Index n, Index w, Index r, const T *x, Index ldx, const unsigned char *mask, const T *m, Index m_row,
             Index m_col, T *z, Index ldz) {
  std::vector<T> room;
  const T *factor = packed<T>(room, m, m_row, m_col, nullptr, 1, r, w);
  over_rows<T>(n, w, mask ? ROWS * chunk<T>(w, r) : 0, [&](int, Index i, Index rows, T *made) {
    if (mask)
      project_block<T>(Masked<T>{x, ldx, mask, w}, i, rows, factor, w, r, z + i * ldz, ldz, made);
    else
      project_block<T>(Plain<T, true>{x, ldx}, i, rows, factor, w, r, z + i * ldz, ldz, made);
  });
}

template <class T>
void spread(Index n, Index w, Index r, const T *z, Index ldz, const T *m, Index m_row, Index m_col, const T *coef,
            T scale, const T *start, Index lds, const unsigned char *mask, T *y, Index ldy) {
  std::vector<T> room;
  const T *factor = packed<T>(room, m, m_row, m_col, coef, scale, r, w);
  const Index step = chunk<T>(w, r);
  over_rows<T>(n, w, 0, [&](int, Index first, Index rows, T *) {
    for (Index c = 0; c < w; c += step) {
      const Index cols = smaller(step, w - c), end = first + rows;
      const auto keep = [&](Index i) { return mask ? mask + i * w + c : nullptr; };
      const auto on = [&](Index i) { return start ? start + i * lds + c : nullptr; };
      Index i = first;
      for (; i + TALL <= end; i += TALL)
        spread_rows<T, TALL>(y + i * ldy + c, ldy, on(i), lds, z + i * ldz, ldz, factor + c, w, cols, r, keep(i), w);
      for (; i < end; i++)
        spread_rows<T, 1>(y + i * ldy + c, ldy, on(i), lds, z + i * ldz, ldz, factor + c, w, cols, r, keep(i), w);
    }
  });
}

template <class T>
void pull(Index n, Index w, Index r, const T *g, Index ldg, const T *m, Index m_row, Index m_col, const T *coef, T scale,
          T *u, Index ldu, const T *z, Index ldz, T *d) {
  std::vector<T> room;
  const T *factor = u ? packed<T>(room, m, m_row, m_col, coef, scale, r, w) : nullptr;
  Sums<T> sums(d, d ? r * w : 0, d ? threads(n, w) : 1);
  const Plain<T, true> far{g, ldg};
  const Plain<T, false> near{g, ldg};
  over_rows<T>(n, w, 0, [&](int t, Index i, Index rows, T *) {
    if (u) project_block<T>(far, i, rows, factor, w, r, u + i * ldu, ldu, nullptr);
    if (d && u) outer_block<T>(near, i, rows, z + i * ldz, ldz, sums.of(t), w, r, nullptr);
    if (d && !u) outer_block<T>(far, i, rows, z + i * ldz, ldz, sums.of(t), w, r, nullptr);
  });
  sums.add(scale);
}

template <class T>
void gather(Index n, Index w, Index r, const T *u, Index ldu, const T *x, Index ldx, const T *mean, const T *rstd,
            const T *weight, const T *bias, bool gelu, const unsigned char *mask, T *d) {
  Sums<T> sums(d, r * w, threads(n, w));
  over_rows<T>(n, w, ROWS * WIDE * LANES<T>, [&](int t, Index i, Index rows, T *room) {
    const auto from = [&](const auto &source) {
      outer_block<T>(source, i, rows, u + i * ldu, ldu, sums.of(t), w, r, room);
    };
    if (mean)
      from(Normed<T>{x, ldx, mean, rstd, weight, bias, mask, w});
    else if (gelu)
      from(Gelu<T>{x, ldx, mask, w});
    else if (mask)
      from(Masked<T>{x, ldx, mask, w});
    else
      from(Plain<T, true>{x, ldx});
  });
  sums.add(1);
}

}  // namespace

#define EXPORTED(T, NAME)                                                                                              \
  void NAME##_project(Index n, Index w, Index r, const T *x, Index ldx, const unsigned char *mask, const T *m,         \
                      Index m_row, Index m_col, T *z, Index ldz) {                                                     \
    project<T>(n, w, r, x, ldx, mask, m, m_row, m_col, z, ldz);                                                        \
  }                                                                                                                    \
  void NAME##_spread(Index n, Index w, Index r, const T *z, Index ldz, const T *m, Index m_row, Index m_col,           \
                     const T *coef, double scale, const T *start, Index lds, const unsigned char *mask, T *y,        \
                     Index ldy) {  \
    spread<T>(n, w, r, z, ldz, m, m_row, m_col, coef, static_cast<T>(scale), start, lds, mask, y, ldy);                     \
  }                                                                                                                    \
  void NAME##_pull(Index n, Index w, Index r, const T *g, Index ldg, const T *m, Index m_row, Index m_col,             \
                   const T *coef, double scale, T *u, Index ldu, const T *z, Index ldz, T *d) {                        \
    pull<T>(n, w, r, g, ldg, m, m_row, m_col, coef, static_cast<T>(scale), u, ldu, z, ldz, d);                         \
  }                                                                                                                    \
  void NAME##_gather(Index n, Index w, Index r, const T *u, Index ldu, const T *x, Index ldx, const T *mean,           \
                     const T *rstd, const T *weight, const T *bias, bool gelu, const unsigned char *mask, T *d) {      \
    gather<T>(n, w, r, u, ldu, x, ldx, mean, rstd, weight, bias, gelu, mask, d);                                       \
  }

extern "C" {
EXPORTED(float, float32)
EXPORTED(double, float64)
}
