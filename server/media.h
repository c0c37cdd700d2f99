/* How arrays leave: as JSON, or as bytes of a kind that Accept names.
 *
 *     application/x-npy         one array                   (also application/npy)
 *     application/x-npz         several, by name            (also application/npz, application/zip)
 *     application/safetensors   several, by name            (also application/vnd.safetensors, application/x-safetensors)
 *
 * Of those an Accept names, the one with the highest q; of equals the first. What it names besides is
 * not offered, and a request without any known kind gets JSON.
 *
 * Pure functions.
 */
#ifndef ENGRAM_MEDIA_H
#define ENGRAM_MEDIA_H

enum media { MEDIA_JSON, MEDIA_NPY, MEDIA_NPZ, MEDIA_SAFETENSORS };

enum media media_of(const char *accept);
const char *media_name(enum media m); /* as in Content-Type */

#endif
