/* The one door to OpenBLAS. Row-major float32; weights are [out][in], so
 *
 *     gemm_nt   C[m][n] = A[m][k] · B[n][k]ᵀ      activations times a weight: forward
 *     gemm_nn   C[m][n] = A[m][k] · B[k][n]       gradient times a weight: backward
 *     gemm_tn   C[m][n] = A[k][m]ᵀ · B[k][n]      weight gradients
 *
 * ld* are row strides in floats. accumulate: add to C instead of overwriting it. C must not
 * overlap A or B. The thread count is set once, by blas_start, from the process's main; only the
 * compute thread may call the products. Sizes must fit int.
 */
#ifndef ENGRAM_BLAS_H
#define ENGRAM_BLAS_H

#include "core/base/err.h"

/* Set the thread count and prove the products right on this machine. */
bool blas_start(int threads, struct err *e) MUST_CHECK;
const char *blas_kernel(void); /* e.g. "OpenBLAS 0.3.21 Cooperlake" */

void gemm_nt(size_t m, size_t n, size_t k, const float *a, size_t lda, const float *b, size_t ldb,
             float *c, size_t ldc, float alpha, bool accumulate);
void gemm_nn(size_t m, size_t n, size_t k, const float *a, size_t lda, const float *b, size_t ldb,
             float *c, size_t ldc, float alpha, bool accumulate);
void gemm_tn(size_t m, size_t n, size_t k, const float *a, size_t lda, const float *b, size_t ldb,
             float *c, size_t ldc, float alpha, bool accumulate);

/* float64, dense, for what is fitted rather than run: C[m][n] = op(A) · op(B), ld* as the memory lies. */
void gemm64(bool ta, bool tb, size_t m, size_t n, size_t k, const double *a, size_t lda, const double *b, size_t ldb,
            double *c, size_t ldc);
/* A[n][n] symmetric and positive definite (its lower half is read, and lost), B[k][n]: each row of B becomes the x of
 * A·x = b. False when A is not positive definite. LAPACK's dposv. */
bool solve64(size_t n, double *a, size_t k, double *b) MUST_CHECK;

#endif
