// Products of activations with narrow factors, for a processor.
//
// An activation is (n, w) with n tokens and some hundreds to thousands of columns, a factor (r, w) with a rank r of a few
// dozen at most. Multiplying takes about as long as reading the activation, which large products have pushed out of the
// core's cache by then. So every function here reads its activation once, some rows ahead of use, and does everything
// with it that there is to do: two products of one output gradient, or one of an input that is made again on the way.
//
// All sums are in the type of their operands. With several threads, rows are shared out evenly, and sums over rows are
// added up in the order of threads.

#include "blocks.hpp"

namespace {

template <class T>
void project(Index n, Index w, Index r, const T *x, Index ldx, const unsigned char *mask, const T *m, Index m_row,
             Index m_col, T *z, Index ldz) {
  std::vector<T> room;
  const T *factor = packed<T>(room, m, m_row, m_col, nullptr, 1, r, w);
  over_rows<T>(n, w, mask ? ROWS * chunk<T>(w, r) : 0, [&](int, Index i, Index rows, T *block) {
    if (mask)
      project_block<T>(made(x, ldx, mask, w, Same<T>{}), i, rows, factor, w, r, z + i * ldz, ldz, block);
    else
      project_block<T>(Plain<T, true>{x, ldx}, i, rows, factor, w, r, z + i * ldz, ldz, block);
  });
}

template <class T>
void expand(Index n, Index w, Index r, const T *z, Index ldz, const T *m, Index m_row, Index m_col, const T *coef,
            T scale, const T *bias, const unsigned char *mask, T *y, Index ldy) {
  std::vector<T> room;
  const T *factor = packed<T>(room, m, m_row, m_col, coef, scale, r, w);
  const Index step = chunk<T>(w, r);
  over_rows<T>(n, w, 0, [&](int, Index first, Index rows, T *) {
    for (Index c = 0; c < w; c += step) {
      const Index cols = smaller(step, w - c), end = first + rows;
      const auto keep = [&](Index i) { return mask ? mask + i * w + c : nullptr; };
      const T *on = bias ? bias + c : nullptr;
      Index i = first;
      for (; i + TALL <= end; i += TALL)
        expand_rows<T, TALL>(y + i * ldy + c, ldy, on, z + i * ldz, ldz, factor + c, w, cols, r, keep(i), w);
      for (; i < end; i++)
        expand_rows<T, 1>(y + i * ldy + c, ldy, on, z + i * ldz, ldz, factor + c, w, cols, r, keep(i), w);
    }
  });
}

template <class T>
void input_and_factor_grads(Index n, Index w, Index r, const T *g, Index ldg, const T *m, Index m_row, Index m_col,
                            const T *coef, T scale, T *u, Index ldu, const T *z, Index ldz, T *d) {
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
void weight_grad(Index n, Index w, Index r, const T *u, Index ldu, const T *x, Index ldx, const T *mean,
                 const T *rstd, const T *weight, const T *bias, bool gelu, const unsigned char *mask, T *d) {
  Sums<T> sums(d, r * w, threads(n, w));
  over_rows<T>(n, w, ROWS * WIDE * LANES<T>, [&](int t, Index i, Index rows, T *room) {
    const auto from = [&](const auto &source) {
      outer_block<T>(source, i, rows, u + i * ldu, ldu, sums.of(t), w, r, room);
    };
    if (mean)
      from(made(x, ldx, mask, w, Norm<T>{mean, rstd, weight, bias}));
    else if (gelu)
      from(made(x, ldx, mask, w, Gelu<T>{}));
    else if (mask)
      from(made(x, ldx, mask, w, Same<T>{}));
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
  void NAME##_expand(Index n, Index w, Index r, const T *z, Index ldz, const T *m, Index m_row, Index m_col,           \
                     const T *coef, double scale, const T *bias, const unsigned char *mask, T *y, Index ldy) {         \
    expand<T>(n, w, r, z, ldz, m, m_row, m_col, coef, static_cast<T>(scale), bias, mask, y, ldy);                      \
  }                                                                                                                    \
  void NAME##_input_and_factor_grads(Index n, Index w, Index r, const T *g, Index ldg, const T *m, Index m_row,        \
                   Index m_col, const T *coef, double scale, T *u, Index ldu, const T *z, Index ldz, T *d) {           \
    input_and_factor_grads<T>(n, w, r, g, ldg, m, m_row, m_col, coef, static_cast<T>(scale), u, ldu, z, ldz, d);       \
  }                                                                                                                    \
  void NAME##_weight_grad(Index n, Index w, Index r, const T *u, Index ldu, const T *x, Index ldx, const T *mean,      \
                     const T *rstd, const T *weight, const T *bias, bool gelu, const unsigned char *mask, T *d) {      \
    weight_grad<T>(n, w, r, u, ldu, x, ldx, mean, rstd, weight, bias, gelu, mask, d);                                  \
  }

extern "C" {
EXPORTED(float, float32)
EXPORTED(double, float64)
}
