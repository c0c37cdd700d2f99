"""Would the tests notice? Deliberate faults, one at a time, each of which must turn its test red.

    tools/mutants.py [--make MAKE] [WORD…]      only mutants whose description has one of the words

Works in a copy of the tree (build/mutants/), so nothing here is touched. A mutant is a row: what goes
wrong, where, the text and what it becomes, the test that must notice. A test must be green without the
mutant, and the text must still be there: a row that no longer applies is a failure as well.
"""
import argparse
import collections
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
TREE = ROOT / "build" / "mutants"
Mutant = collections.namedtuple("Mutant", "what file old new test")

MUTANTS = (
    Mutant("rotary turns one half the other way", "core/kernel/rotary.c",
           "x * cosine - y * sine", "x * cosine + y * sine", "unit/test_kernels"),
    Mutant("the norm's gradient has a wrong sign", "core/kernel/norm.c",
           "- unit * mean_gu", "+ unit * mean_gu", "unit/test_kernels"),
    Mutant("a Q6_K number has no high bits", "core/file/quant_super.c",
           "+ 16 * pick(b.high, e, 32, 4)", "", "unit/test_quant"),
    Mutant("a scale of -0 is decoded as 0", "core/kernel/packed_kernels.inc",
           "return x - (part){0};", "return x + (part){0};", "unit/test_matrix"),
    Mutant("a sum takes the row of weights beside it", "core/kernel/packed_kernels.inc",
           "sum_of(s->sum[j][g])", "sum_of(s->sum[0][g])", "unit/test_matrix"),
    Mutant("a window shows one position too many", "core/kernel/attention_int.h",
           "pos + 1 - s->window : 0", "pos - s->window : 0", "unit/test_attention"),
    Mutant("a soft-cap has no gradient of its own", "core/kernel/attention_backward.c",
           "softcap_backward(dp + first, h->scores, seen, s->softcap);", "", "unit/test_attention"),
    Mutant("windowed layers turn by the other base", "core/arch.c",
           "windowed && r->theta_local > 0", "false && windowed", "unit/test_families"),
    Mutant("Llama 3 slows every frequency", "core/arch.c",
           "if (turns > r->llama3.high) return freq;", "", "unit/test_families"),
    Mutant("Gemma's gains are not less one", "core/family/gemma2.c",
           "a->norm_offset = 1;", "a->norm_offset = 0;", "unit/test_families"),
    Mutant("a woven matrix is read as it lies in a GGUF", "core/family/gpt_neox.c",
           "\"blk.%u.attn_qkv.weight\", UNWOVEN", "\"blk.%u.attn_qkv.weight\", AS_IS", "unit/test_families"),
    Mutant("a write at a shared norm reaches attention only", "core/block.c",
           "bool shared = shares_written_norm(b);", "bool shared = false && shares_written_norm(b);", "unit/test_families"),
    Mutant("the gradient at a shared norm is attention's only", "core/block_backward.c",
           "d_norm[i] += b->rows.out[i];", "d_norm[i] += 0 * b->rows.out[i];", "unit/test_families"),
    Mutant("a few logits are not capped", "core/head.c",
           "softcap_row(logits, n * n_ids, a->final_softcap);", "", "unit/test_families_probes"),
    Mutant("the last layer's streams are packed, its heads are not", "probes/sweep.c",
           "memmove(b->rows.z + i * z_width, b->rows.z + last * z_width, z_width * sizeof *b->rows.z);", "(void)z_width;",
           "unit/test_families_probes"),
    Mutant("the last layer's streams are packed, its shared norm is not", "probes/sweep.c",
           "memmove(b->rows.norm + i * d, b->rows.norm + last * d, d * sizeof *b->x);", "", "unit/test_grids"),
    Mutant("a window of layers is written in its first only", "probes/sweep.c",
           "w->layer <= w->cell[i].last", "w->layer <= w->cell[i].layer", "unit/test_grids"),
    Mutant("a patched head gets its neighbour's values", "core/tap.c",
           "r->heads + r->head", "r->heads + (r->head + 1) % r->heads", "unit/test_grids"),
    Mutant("a pair's cells are read by the first pair's source", "probes/patch.c",
           "patch_runs_values(p->runs, c->base, grid ? PATCH_SOURCE", "patch_runs_values(p->runs, 0, grid ? PATCH_SOURCE",
           "unit/test_grids"),
    Mutant("intervals are over members, not over their groups", "server/api/pairs.c",
           "p->group[i] = p->group[k];", "break;", "tests/api/test_patch.py"),
    Mutant("the embedding's gradient forgets its scale", "core/head.c",
           "token[k] += a->embed_scale * dx[k];", "token[k] += dx[k];", "unit/test_families"),
    Mutant("an export says what it has words for", "core/export/hub_config.c",
           "if (differs)", "if (false && differs)", "unit/test_hub_write"),
    Mutant("TuCo hears attention only", "probes/tuco.c",
           "(double)t->add[0][i] + (double)t->add[1][i]", "(double)t->add[0][i]", "unit/test_families_probes"),
    Mutant("a matrix' gradient is laid out by outputs in every family", "core/linear.c",
           "if (l->input_major) gemm_tn(", "if (l->input_major && !l->in) gemm_tn(", "unit/test_families_edits"),
    Mutant("a parallel block's kept stream is without attention", "core/block.c",
           "each_row(b, add_range, (struct rows_job){.in = b->rows.attn, .out = b->x});\n        block_fire(b, HOOK_RESID_MID, b->x, a->d_model);",
           "block_fire(b, HOOK_RESID_MID, b->x, a->d_model);\n        each_row(b, add_range, (struct rows_job){.in = b->rows.attn, .out = b->x});",
           "unit/test_families_edits"),
    Mutant("a norm after the MLP has no gradient", "core/block_backward.c",
           "if (!a->post_norm) return dy;", "return dy;", "unit/test_families_edits"),
    Mutant("a scaling nobody knows is left out", "core/family/read_config.c",
           "return err_set(e, ERR_UNSUPPORTED, \"config.json: rotary scaling", "return true || err_set(e, ERR_UNSUPPORTED, \"config.json: rotary scaling",
           "unit/test_family_config"),
    Mutant("one head's rows go to its neighbour's listener", "core/tap.c",
           "head_at(t, r.slot) == head", "head_at(t, r.slot) + 1 == head", "unit/test_hook"),
    Mutant("what people wrote counts as the template's words", "core/text/chat.c",
           "if (own) memset(origin, 1, len);", "memset(origin, 1, len);", "unit/test_chat"),
    Mutant("a delta is taken away instead of added", "core/delta_apply.c",
           "w[i] = w[i] + change[i]", "w[i] = w[i] - change[i]", "unit/test_delta"),
    Mutant("low-rank products are fused into their sum", "core/delta_apply.c",
           "acc[j] = acc[j] + product", "acc[j] = __builtin_fmaf(a, b[j], acc[j]) + 0 * product", "unit/test_delta"),
    Mutant("the digest leaves out element types", "ledger/digest.c",
           "sha_put(s, type, type_len);", "", "unit/test_ledger"),
    Mutant("TuCo sums with signs", "probes/tuco.c",
           "p += fabs(ptc[i])", "p += ptc[i]", "unit/test_tuco"),
    Mutant("the chain does not look back", "ledger/chain.c",
           "memcmp(prev, w->last, SHA256_BYTES) != 0", "false && prev", "unit/test_ledger_tamper"),
    Mutant("two Content-Lengths pass the guard", "server/guard.c",
           "if (g->lengths > 1)", "if (g->lengths > 9)", "unit/test_guard"),
    Mutant("every role may do everything", "server/auth.c",
           "if (who->level >= need) return true", "if (who->level >= need || who) return true", "unit/test_auth"),
    Mutant("a prompt's log-probabilities are one place late", "core/decode.c",
           "d->q[i].prompt + p[k].pos + 1", "d->q[i].prompt + p[k].pos", "unit/test_decode"),
    Mutant("a continuation goes on from its leader's cache itself", "core/decode.c",
           "kv_fork(d->result[leader].kv, d->q[i].n_prompt, e)", "kv_new(&view_model(d->view)->arch)", "unit/test_decode"),
    Mutant("who leaves a completion leaves its work behind", "server/exchange_work.c",
           "return x->job && !x->accepting", "return false && !x->accepting", "tests/api/test_openai.py"),
    Mutant("a probability's slope forgets the others", "probes/metric.c",
           "{p, {p, 0, -p}}", "{p, {p, 0, 0}}", "unit/test_metric"),
    Mutant("a gradient stops a layer too early", "probes/gradient.c",
           "if (s.layer < from) from = s.layer;", "if (s.layer + 1 < from) from = s.layer + 1;", "tests/api/test_gradients.py"),
    Mutant("rows between are not unembedded for who reads them", "probes/trace.c",
           "if (tap->seq != seq || !head_hook(tap->site.hook)) continue;", "if (tap->seq != seq || head_hook(tap->site.hook)) continue;",
           "unit/test_trace"),
    Mutant("an archive's checksums are of headers only", "server/zip.c",
           "crc32_z(crc32_z(0, head, head_len), bytes, len)", "crc32_z(0, head, head_len)", "tests/api/test_bytes.py"),
    Mutant("what was looked at is not recorded", "server/api/look.c",
           "o->record = RECORD_RUN", "o->record = RECORD_NOTHING", "tests/api/test_trace.py"),
    Mutant("a commit is answered but not published", "server/record.c",
           "if (j->ops->published)", "if (j->ops->published && o->status == 0)", "tests/api/test_history.py"),
)


def copy_tree():
    """Tracked and new files of the work tree; times are kept, so that make rebuilds little."""
    names = subprocess.run(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, check=True,
                           capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        source, copy = ROOT / name, TREE / name
        if source.is_file() and not (copy.exists() and copy.read_bytes() == source.read_bytes()):
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy)


def quiet(command, minutes=10):
    env = dict(os.environ, PYTHONDONTWRITEBYTECODE="1", ENGRAMD=str(TREE / "build/engramd"),
               ENGRAM_BUILD=str(TREE / "build"))
    for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL"):
        env.pop(name, None)
    try:
        return subprocess.run(command, cwd=TREE, env=env, stdin=subprocess.DEVNULL, timeout=minutes * 60,
                              capture_output=True).returncode
    except subprocess.TimeoutExpired:
        return 1


def builds(make, test):
    target = f"build/{test}" if test.startswith("unit/") else "build/engramd"
    return quiet([make, f"-j{os.cpu_count()}", target]) == 0


def green(test):
    if test.startswith("unit/"):
        return quiet([TREE / "build" / test]) == 0
    return quiet([sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", test]) == 0


def verdict(mutant, make):
    path = TREE / mutant.file
    before = path.read_text()
    if before.count(mutant.old) == 0:
        return "does not apply any more"
    path.write_text(before.replace(mutant.old, mutant.new, 1))
    try:
        if not builds(make, mutant.test):
            return "does not build"
        return "SURVIVED" if green(mutant.test) else "noticed"
    finally:
        path.write_text(before)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--make", default="make")
    arguments.add_argument("word", nargs="*")
    wanted = arguments.parse_args()
    copy_tree()
    passed = failed = 0
    base = {}
    for mutant in MUTANTS:
        if wanted.word and not any(w in mutant.what for w in wanted.word):
            continue
        if mutant.test not in base:
            base[mutant.test] = builds(wanted.make, mutant.test) and green(mutant.test)
        said = verdict(mutant, wanted.make) if base[mutant.test] else "its test is red without it"
        passed, failed = passed + (said == "noticed"), failed + (said != "noticed")
        print(f"  {mutant.what:46} {mutant.test:28} {said}", flush=True)
    print(f"\n{passed} passed, {failed} failed")
    return 0 if passed and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
