// The recurrences of RWKV-4, Mamba-1 and RWKV-7 with their backward, for training on a CPU: one thread, float32, as many channels at a time as a register holds.
// The truth are `wkv` and `SelectiveScan` in nets.py, and `matrix_state_torch` of the kernels.
//
// WKV, per channel, with decay d and e^u given, and e^k taken against the greatest key of row and channel:
//
//   y_t = (a_(t-1) + e^u e^k_t v_t) / (b_(t-1) + e^u e^k_t),   a_t = d a_(t-1) + e^k_t v_t,   b_t = d b_(t-1) + e^k_t
//
// k, v, y, seen (2 x: a and b before each step) (B, T, C); top (B, C); d, eu (C).
//
// The selective scan:
//
//   h_t = e^(dt_t A) h_(t-1) + dt_t x_t B_t,   y_t = C_t h_t,   from h = 0
//
// x, dt, y (T, B, C); A (N, C); B, C (T, B, N); starts (T / kSteps, B, C / kLanes, N, kLanes). C is a multiple of kLanes, N at most kStates.
//
// The matrix state, per head, with a decay w in (0, 1] of its own for each key:
//
//   S_t = S_(t-1) diag(w_t) + (S_(t-1) a_t) b_t^T + v_t k_t^T,   y_t = S_t r_t,   from S = 0
//
// r, k, v, w, a, b, y (B, T, H, kKeys); starts (T / kTurns, B, H, kKeys values, kKeys).
// The backwards make the states of kSteps or kTurns steps again from the one before them, so what they need stays in the cache.

#include <cstdint>
#include <cstring>

namespace {

// Compilers keep vectors that are wider than the processor's registers in memory, which is many times slower.
#ifdef __AVX512F__
constexpr int kLanes = 16;
#else
constexpr int kLanes = 8;
#endif
constexpr int kSteps = 32, kStates = 16, kKeys = 64, kWide = kKeys / kLanes, kTurns = 16;
typedef float Lanes __attribute__((vector_size(4 * kLanes)));
typedef std::int32_t Bits __attribute__((vector_size(4 * kLanes)));

Lanes load(const float* from) {
  Lanes value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

void store(float* to, Lanes value) { std::memcpy(to, &value, sizeof value); }

float sum(Lanes v) {
  typedef float Four __attribute__((vector_size(16)));
  Four parts[kLanes / 4];
  std::memcpy(parts, &v, sizeof v);
  for (int i = 1; i < kLanes / 4; i++) parts[0] += parts[i];
  return (parts[0][0] + parts[0][1]) + (parts[0][2] + parts[0][3]);
}

// e^x for x <= 0, relative error below 1e-6: 2^n e^r with |r| <= ln 2 / 2.
Lanes exp_negative(Lanes x) {
  x = x < -87.0f ? Lanes{} - 87.0f : x;
  const Lanes shifted = x * 1.44269504f + 12582912.0f;
  const Lanes n = shifted - 12582912.0f;
  const Lanes r = x - n * 0.693359375f + n * 2.12194440e-4f;
  Lanes p = Lanes{} + 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  return p * (Lanes)(((Bits)shifted << 23) + 0x3f800000);
}

float dot(const Lanes* x, const float* y) {
  Lanes products = {};
  for (int j = 0; j < kWide; j++) products += x[j] * load(y + j * kLanes);
  return sum(products);
}

// One token of one value's row of the matrix: S before it -> after it; returns S a.
float turn(const Lanes* before, Lanes* after, const float* w, const float* a, const float* b, const float* k, float v) {
  const float found = dot(before, a);
  for (int j = 0; j < kWide; j++) {
    const int at = j * kLanes;
    after[j] = before[j] * load(w + at) + found * load(b + at) + v * load(k + at);
  }
  return found;
}

void add(float* to, Lanes value) { store(to, load(to) + value); }

}  // namespace

extern "C" void wkv_forward(const float* d, const float* eu, const float* k, const float* v, const float* top, float* y,
                            float* seen, long B, long T, long C) {
  for (long row = 0; row < B; row++)
    for (long block = 0; block < C; block += kLanes) {
      const Lanes decay = load(d + block), bonus = load(eu + block), most = load(top + row * C + block);
      Lanes a = {}, b = {};
      for (long t = 0; t < T; t++) {
        const long at = (row * T + t) * C + block;
        const Lanes weight = exp_negative(load(k + at) - most), value = weight * load(v + at);
        store(seen + at, a);
        store(seen + B * T * C + at, b);
        store(y + at, (a + bonus * value) / (b + bonus * weight));
        a = decay * a + value;
        b = decay * b + weight;
      }
    }
}

// gd and geu are added to.
extern "C" void wkv_backward(const float* d, const float* eu, const float* k, const float* v, const float* top,
                             const float* seen, const float* gy, float* gd, float* geu, float* gk, float* gv, long B,
                             long T, long C) {
  for (long row = 0; row < B; row++)
    for (long block = 0; block < C; block += kLanes) {
      const Lanes decay = load(d + block), bonus = load(eu + block), most = load(top + row * C + block);
      Lanes g_a = {}, g_b = {}, g_decay = {}, g_bonus = {};
      for (long t = T - 1; t >= 0; t--) {
        const long at = (row * T + t) * C + block;
        const Lanes weight = exp_negative(load(k + at) - most), value = load(v + at), product = weight * value;
        const Lanes a = load(seen + at), b = load(seen + B * T * C + at), below = b + bonus * weight;
        const Lanes g_above = load(gy + at) / below, g_below = -g_above * (a + bonus * product) / below;
        const Lanes g_product = g_a + bonus * g_above;
        store(gv + at, weight * g_product);
        store(gk + at, weight * (g_b + bonus * g_below + value * g_product));
        g_decay += g_a * a + g_b * b;
        g_bonus += g_above * product + g_below * weight;
        g_a = decay * g_a + g_above;
        g_b = decay * g_b + g_below;
      }
      store(gd + block, load(gd + block) + g_decay);
      store(geu + block, load(geu + block) + g_bonus);
    }
}

extern "C" int scan_steps() { return kSteps; }

extern "C" void scan_forward(const float* x, const float* dt, const float* a, const float* b, const float* c, float* y,
                             float* starts, long T, long B, long C, long N) {
  for (long row = 0; row < B; row++)
    for (long block = 0; block < C / kLanes; block++) {
      Lanes h[kStates] = {};
      for (long t = 0; t < T; t++) {
        if (t % kSteps == 0)
          std::memcpy(starts + (((t / kSteps) * B + row) * (C / kLanes) + block) * N * kLanes, h, N * sizeof(Lanes));
        const long at = (t * B + row) * C + block * kLanes;
        const float *bt = b + (t * B + row) * N, *ct = c + (t * B + row) * N;
        const Lanes step = load(dt + at), in = step * load(x + at);
        Lanes out = {};
        for (long n = 0; n < N; n++) {
          h[n] = exp_negative(step * load(a + n * C + block * kLanes)) * h[n] + in * bt[n];
          out += h[n] * ct[n];
        }
        store(y + at, out);
      }
    }
}

// ga, gb and gc are added to.
extern "C" void scan_backward(const float* x, const float* dt, const float* a, const float* b, const float* c,
                              const float* starts, const float* gy, float* gx, float* gdt, float* ga, float* gb,
                              float* gc, long T, long B, long C, long N) {
  static thread_local Lanes decay[kSteps][kStates], h[kSteps + 1][kStates];
  for (long row = 0; row < B; row++)
    for (long block = 0; block < C / kLanes; block++) {
      Lanes later[kStates] = {}, g_a[kStates] = {};
      for (long chunk = (T - 1) / kSteps; chunk >= 0; chunk--) {
        const long first = chunk * kSteps, steps = T - first < kSteps ? T - first : kSteps;
        std::memcpy(h[0], starts + ((chunk * B + row) * (C / kLanes) + block) * N * kLanes, N * sizeof(Lanes));
        for (long i = 0; i < steps; i++) {
          const long at = ((first + i) * B + row) * C + block * kLanes;
          const float* bt = b + ((first + i) * B + row) * N;
          const Lanes step = load(dt + at), in = step * load(x + at);
          for (long n = 0; n < N; n++) {
            decay[i][n] = exp_negative(step * load(a + n * C + block * kLanes));
            h[i + 1][n] = decay[i][n] * h[i][n] + in * bt[n];
          }
        }
        for (long i = steps - 1; i >= 0; i--) {
          const long at = ((first + i) * B + row) * C + block * kLanes, ids = ((first + i) * B + row) * N;
          const Lanes step = load(dt + at), value = load(x + at), in = step * value, g_out = load(gy + at);
          Lanes g_in = {}, g_step = {};
          for (long n = 0; n < N; n++) {
            gc[ids + n] += sum(g_out * h[i + 1][n]);
            const Lanes g = later[n] + g_out * c[ids + n];
            gb[ids + n] += sum(g * in);
            g_in += g * b[ids + n];
            later[n] = g * decay[i][n];
            const Lanes g_power = later[n] * h[i][n];
            g_step += g_power * load(a + n * C + block * kLanes);
            g_a[n] += g_power * step;
          }
          store(gx + at, g_in * step);
          store(gdt + at, g_step + g_in * value);
        }
      }
      for (long n = 0; n < N; n++) {
        float* to = ga + n * C + block * kLanes;
        store(to, load(to) + g_a[n]);
      }
    }
}

extern "C" int matrix_keys() { return kKeys; }
extern "C" int matrix_turns() { return kTurns; }

extern "C" void matrix_forward(const float* r, const float* k, const float* v, const float* w, const float* a,
                               const float* b, float* y, float* starts, long B, long T, long H) {
  static thread_local Lanes S[kKeys][kWide];
  for (long row = 0; row < B; row++)
    for (long head = 0; head < H; head++) {
      std::memset(S, 0, sizeof S);
      for (long first = 0; first < T; first += kTurns) {
        const long stop = T - first < kTurns ? T : first + kTurns;
        std::memcpy(starts + (((first / kTurns) * B + row) * H + head) * kKeys * kKeys, S, sizeof S);
        for (int value = 0; value < kKeys; value++)
          for (long t = first; t < stop; t++) {
            const long at = ((row * T + t) * H + head) * kKeys;
            turn(S[value], S[value], w + at, a + at, b + at, k + at, v[at + value]);
            y[at + value] = dot(S[value], r + at);
          }
      }
    }
}

// All gradients but gv are added to.
extern "C" void matrix_backward(const float* r, const float* k, const float* v, const float* w, const float* a,
                                const float* b, const float* starts, const float* gy, float* gr, float* gk, float* gv,
                                float* gw, float* ga, float* gb, long B, long T, long H) {
  static thread_local Lanes S[kTurns + 1][kWide], g[kKeys][kWide];
  float found[kTurns];
  for (long row = 0; row < B; row++)
    for (long head = 0; head < H; head++) {
      std::memset(g, 0, sizeof g);
      for (long chunk = (T - 1) / kTurns; chunk >= 0; chunk--) {
        const long first = chunk * kTurns, steps = T - first < kTurns ? T - first : kTurns;
        const float* before = starts + ((chunk * B + row) * H + head) * kKeys * kKeys;
        for (int value = 0; value < kKeys; value++) {
          std::memcpy(S[0], before + value * kKeys, sizeof S[0]);
          for (long t = 0; t < steps; t++) {
            const long at = ((row * T + first + t) * H + head) * kKeys;
            found[t] = turn(S[t], S[t + 1], w + at, a + at, b + at, k + at, v[at + value]);
          }
          Lanes later[kWide];
          std::memcpy(later, g[value], sizeof later);
          for (long t = steps - 1; t >= 0; t--) {
            const long at = ((row * T + first + t) * H + head) * kKeys;
            const float g_out = gy[at + value], own = v[at + value];
            for (int j = 0; j < kWide; j++) later[j] += g_out * load(r + at + j * kLanes);
            gv[at + value] = dot(later, k + at);
            const float g_found = dot(later, b + at);
            for (int j = 0; j < kWide; j++) {
              const long to = at + j * kLanes;
              add(gr + to, g_out * S[t + 1][j]);
              add(gk + to, own * later[j]);
              add(gb + to, found[t] * later[j]);
              add(gw + to, later[j] * S[t][j]);
              add(ga + to, g_found * S[t][j]);
              later[j] = later[j] * load(w + to) + g_found * load(a + to);
            }
          }
          std::memcpy(g[value], later, sizeof later);
        }
      }
    }
}
