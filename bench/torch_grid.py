"""A strong rival for patch grids: what somebody who knows the algebra writes in PyTorch for a Llama.

All cells of a layer are one batch. It starts behind the patched place, carries of each cell only the rows that can
differ (packed, not padded: the products see no row twice), reads keys and values of the base for the rest, in the
last layer goes on with the last rows alone, and unembeds two columns. Denoising, logit difference at the last
position. It shares no code with the daemon and none of its order: the daemon walks all layers' cells together.

`flops` counts the matrix products and the attention that were really asked for.
"""
import torch
import torch.nn.functional as F


def rotate(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


class Grid:
    def __init__(self, model, clean, corrupt, answer, foil):
        c = model.config
        self.layers, self.heads, self.groups = c.num_hidden_layers, c.num_attention_heads, c.num_key_value_heads
        self.e = getattr(c, "head_dim", None) or c.hidden_size // self.heads
        self.blocks, self.norm, self.n = model.model.layers, model.model.norm, len(clean)
        w = model.get_output_embeddings().weight
        self.column = w[answer] - w[foil]
        self.first = next((i for i in range(self.n) if clean[i] != corrupt[i]), self.n)
        self.embed, self.flops = model.model.embed_tokens, 0
        self.cos, self.sin = (t[0] for t in model.model.rotary_emb(w[:1], torch.arange(self.n)[None]))
        self.mask = torch.arange(self.n)[None] <= torch.arange(self.n)[:, None]
        self.base, self.source = self.run(corrupt), self.run(clean)

    def linear(self, module, x):
        self.flops += 2 * x.numel() * module.weight.shape[0]
        return module(x)

    def qkv(self, block, x, pos):
        """Of packed rows x [R][d] at positions pos [R]: [R][heads][e] each."""
        a, h = block.self_attn, block.input_layernorm(x)
        q, k, v = (self.linear(m, h).view(len(x), -1, self.e) for m in (a.q_proj, a.k_proj, a.v_proj))
        cos, sin = self.cos[pos][:, None], self.sin[pos][:, None]
        return rotate(q, cos, sin), rotate(k, cos, sin), v

    def mlp(self, block, x):
        m, h = block.mlp, block.post_attention_layernorm(x)
        return self.linear(m.down_proj, m.act_fn(self.linear(m.gate_proj, h)) * self.linear(m.up_proj, h))

    def attend(self, q, k, v, mask):
        self.flops += 4 * q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2] * self.e
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)

    def run(self, ids):
        """One prompt, keeping what cells need: by layer pre, mid, attn, mlp [n][d], z [n][H][e], k and v [G][n][e]."""
        kept, x, pos = [], self.embed(torch.tensor(ids)), torch.arange(self.n)
        for block in self.blocks:
            q, k, v = self.qkv(block, x, pos)
            k, v = k.transpose(0, 1), v.transpose(0, 1)
            z = self.attend(q.transpose(0, 1)[None], k[None], v[None], self.mask)[0].transpose(0, 1)
            attn = self.linear(block.self_attn.o_proj, z.reshape(self.n, -1))
            mid = x + attn
            mlp = self.mlp(block, mid)
            kept.append({"pre": x, "mid": mid, "attn": attn, "mlp": mlp, "z": z, "k": k, "v": v})
            x = mid + mlp
        kept.append({"pre": x})
        return kept

    def walk(self, layer, x, cell, pos, cells):
        """Packed rows x [R][d] of `cells` cells entering a layer, each cell's last row being position n - 1."""
        f, last = self.first, pos == self.n - 1
        for l in range(layer, self.layers):
            block, past = self.blocks[l], self.base[l]
            q, k, v = self.qkv(block, x, pos)
            K, V = (past[t].expand(cells, -1, -1, -1).clone() for t in "kv")
            K[cell, :, pos], V[cell, :, pos] = k, v
            if l == self.layers - 1:
                Q, mask, x = q[last][:, :, None], self.mask[-1:], x[last]
                z = self.attend(Q, K, V, mask)[:, :, 0]
            else:
                Q = q.new_zeros(cells, self.heads, self.n - f, self.e)
                Q[cell, :, pos - f] = q
                z = self.attend(Q, K, V, self.mask[f:])[cell, :, pos - f]
            x = x + self.linear(block.self_attn.o_proj, z.flatten(1))
            x = x + self.mlp(block, x)
        return self.metric(x if layer < self.layers else x[last])

    def metric(self, x):
        self.flops += 2 * x.shape[0] * x.shape[1]
        return self.norm(x) @ self.column

    def by_position(self, site, layer):
        """[n]: resid_pre, attn_out or mlp_out."""
        base, source, f = self.base[layer], self.source[layer], self.first
        if site == "resid_pre":
            start, changed = layer, source["pre"][f:]
        elif site == "attn_out":
            mid = base["pre"][f:] + source["attn"][f:]
            start, changed = layer + 1, mid + self.mlp(self.blocks[layer], mid)
        else:
            start, changed = layer + 1, base["mid"][f:] + source["mlp"][f:]
        cell = torch.cat([torch.full((self.n - p,), p - f) for p in range(f, self.n)])
        pos = torch.cat([torch.arange(p, self.n) for p in range(f, self.n)])
        x = self.base[start]["pre"][pos].clone()
        own = pos == cell + f
        x[own] = changed
        out = self.metric(self.base[-1]["pre"][-1:]).expand(self.n).clone()
        out[f:] = self.walk(start, x, cell, pos, self.n - f)
        return out

    def by_head(self, layer):
        """[H]: z of a head, at all positions."""
        base, source, f, r = self.base[layer], self.source[layer], self.first, self.n - self.first
        z = base["z"][f:].expand(self.heads, -1, -1, -1).clone()
        own = torch.arange(self.heads)
        z[own, :, own] = source["z"][f:].transpose(0, 1)
        x = base["pre"][f:] + self.linear(self.blocks[layer].self_attn.o_proj, z.flatten(2))
        x = (x + self.mlp(self.blocks[layer], x)).flatten(0, 1)
        cell, pos = own.repeat_interleave(r), torch.arange(f, self.n).repeat(self.heads)
        return self.walk(layer + 1, x, cell, pos, self.heads)


@torch.no_grad()
def grid(model, clean, corrupt, answer, foil, site, axis, layers=None):
    """(values [layers][n or H], flops), both runs included."""
    g = Grid(model, clean, corrupt, answer, foil)
    rows = range(g.layers) if layers is None else layers
    return torch.stack([g.by_head(l) if axis == "head" else g.by_position(site, l) for l in rows]), g.flops
