// Vectors, sums over their lanes, and threads. Plain C++17 and the vector extensions that GCC and Clang share; no headers
// of torch.

#pragma once

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

// a register's bytes; and whether there are sixteen of them rather than thirty-two
#if defined(__AVX512F__)
#define BYTES 64
#define FEW 0
#elif defined(__AVX__)
#define BYTES 32
#define FEW 1
#else
#define BYTES 16
#if defined(__aarch64__)
#define FEW 0
#else
#define FEW 1
#endif
#endif

template <class T> struct VectorOf;
template <> struct VectorOf<float> {
  typedef float type __attribute__((vector_size(BYTES), aligned(4), may_alias));
};
template <> struct VectorOf<double> {
  typedef double type __attribute__((vector_size(BYTES), aligned(8), may_alias));
};
template <class T> using Vec = typename VectorOf<T>::type;
template <class T> constexpr Index LANES = BYTES / sizeof(T);

template <class T> inline Vec<T> load(const T *p) { return *reinterpret_cast<const Vec<T> *>(p); }
template <class T> inline void store(T *p, Vec<T> v) { *reinterpret_cast<Vec<T> *>(p) = v; }
// count lanes of a vector, at most all; the others are zero
template <class T> inline Vec<T> load(const T *p, Index count) {
  if (count == LANES<T>) return load(p);
  Vec<T> v = {};
  for (Index l = 0; l < count; l++) v[l] = p[l];
  return v;
}
template <class T> inline void store(T *p, Vec<T> v, Index count) {
  if (count == LANES<T>) return store(p, v);
  for (Index l = 0; l < count; l++) p[l] = v[l];
}
template <class T> inline Vec<T> masks(const unsigned char *p, Index count = LANES<T>) {
  Vec<T> v = {};
  for (Index l = 0; l < count; l++) v[l] = static_cast<T>(p[l]);
  return v;
}

#if FEW
constexpr Index RANKS = 2, WIDE = 2;
#else
constexpr Index RANKS = 4, WIDE = 4;
#endif
constexpr Index TALL = 4;  // sums of so many rows and RANKS ranks, or rows and WIDE vectors, fill half the registers

constexpr Index ROWS = 32;      // of a block that stays in the core's cache between two uses
constexpr Index AHEAD = 8;      // rows between what is fetched and what is used
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

}  // namespace
