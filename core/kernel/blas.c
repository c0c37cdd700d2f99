#include "blas.h"

#include <assert.h>
#include <cblas.h>
#include <limits.h>
#include <math.h>
#include <string.h>

static int as_int(size_t v)
{
    assert(v <= INT_MAX);
    return (int)v;
}

static void gemm(CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb, size_t m, size_t n, size_t k, const float *a,
                 size_t lda, const float *b, size_t ldb, float *c, size_t ldc, float alpha,
                 bool accumulate)
{
    if (!m || !n) return;
    cblas_sgemm(CblasRowMajor, ta, tb, as_int(m), as_int(n), as_int(k), alpha, a, as_int(lda), b,
                as_int(ldb), accumulate ? 1.0f : 0.0f, c, as_int(ldc));
}

void gemm_nt(size_t m, size_t n, size_t k, const float *a, size_t lda, const float *b, size_t ldb,
             float *c, size_t ldc, float alpha, bool accumulate)
{
    if (m == 1) /* one row is a matrix-vector product: bandwidth, not arithmetic */
        cblas_sgemv(CblasRowMajor, CblasNoTrans, as_int(n), as_int(k), alpha, b, as_int(ldb), a, 1,
                    accumulate ? 1.0f : 0.0f, c, 1);
    else
        gemm(CblasNoTrans, CblasTrans, m, n, k, a, lda, b, ldb, c, ldc, alpha, accumulate);
}

void gemm_nn(size_t m, size_t n, size_t k, const float *a, size_t lda, const float *b, size_t ldb,
             float *c, size_t ldc, float alpha, bool accumulate)
{
    gemm(CblasNoTrans, CblasNoTrans, m, n, k, a, lda, b, ldb, c, ldc, alpha, accumulate);
}

void gemm_tn(size_t m, size_t n, size_t k, const float *a, size_t lda, const float *b, size_t ldb,
             float *c, size_t ldc, float alpha, bool accumulate)
{
    gemm(CblasTrans, CblasNoTrans, m, n, k, a, lda, b, ldb, c, ldc, alpha, accumulate);
}

void gemm64(bool ta, bool tb, size_t m, size_t n, size_t k, const double *a, size_t lda, const double *b, size_t ldb,
            double *c, size_t ldc)
{
    if (!m || !n) return;
    cblas_dgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans, as_int(m), as_int(n), as_int(k),
                1.0, a, as_int(lda), b, as_int(ldb), 0.0, c, as_int(ldc));
}

/* OpenBLAS carries LAPACK; its header is not always installed. Fortran: by reference, columns first. */
void dposv_(const char *uplo, const int *n, const int *nrhs, double *a, const int *lda, double *b, const int *ldb, int *info,
            size_t uplo_len);

bool solve64(size_t n, double *a, size_t k, double *b)
{
    int size = as_int(n), rhs = as_int(k), info = 0;
    dposv_("U", &size, &rhs, a, &size, b, &size, &info, 1); /* the upper half by columns is the lower by rows */
    return info == 0;
}

const char *blas_kernel(void) { return openblas_get_corename(); }

/* Old builds have returned wrong products on new processors: compare all forms with loops. */
enum { M = 37, N = 53, K = 41 };

static float at(int i, int j) { return (float)((i * 31 + j * 17) % 23 - 11) / 8.0f; }

static bool right(const float *c, const char *form, struct err *e)
{
    for (int i = 0; i < M; i++)
        for (int j = 0; j < N; j++) {
            double want = 0;
            for (int k = 0; k < K; k++) want += (double)at(i, k) * (double)at(k, j);
            if (!(fabs(want - (double)c[i * N + j]) < 1e-3))
                return err_set(e, ERR_INTERNAL, "OpenBLAS (%s) computes a wrong %s product; try "
                               "another OPENBLAS_CORETYPE", blas_kernel(), form);
        }
    return true;
}

static bool self_test(struct err *e)
{
    float a[M * K], at_[K * M], b[K * N], bt[N * K], c[M * N];
    for (int i = 0; i < M; i++)
        for (int k = 0; k < K; k++) a[i * K + k] = at_[k * M + i] = at(i, k);
    for (int k = 0; k < K; k++)
        for (int j = 0; j < N; j++) b[k * N + j] = bt[j * K + k] = at(k, j);
    gemm_nt(M, N, K, a, K, bt, K, c, N, 1.0f, false);
    if (!right(c, "A·Bᵀ", e)) return false;
    gemm_nn(M, N, K, a, K, b, N, c, N, 1.0f, false);
    if (!right(c, "A·B", e)) return false;
    gemm_tn(M, N, K, at_, M, b, N, c, N, 1.0f, false);
    if (!right(c, "Aᵀ·B", e)) return false;
    for (int i = 0; i < M; i++) gemm_nt(1, N, K, a + i * K, K, bt, K, c + i * N, N, 1.0f, false);
    return right(c, "matrix-vector", e);
}

bool blas_start(int threads, struct err *e)
{
    openblas_set_num_threads(threads < 1 ? 1 : threads);
    return self_test(e);
}
