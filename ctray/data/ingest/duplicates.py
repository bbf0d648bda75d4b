"""Near-duplicates: the same picture again, re-encoded, rescaled, shifted, flipped or written on.

A patient's picture in both training and test makes a score look better than it is. Chest images
are all alike, though, and merging two patients is worse than missing a copy. So a hash only
proposes pairs, and pixels decide: the two pictures are aligned and must then agree in their fine
texture, block by block, in most of the picture. Texture has the low frequencies, in which all
chests agree, and the local contrast, which tone curves change, taken out.

Every hash is compared with every other, by blocked matrix products: seconds for 21,000 images,
where a k-d tree took longer and pruned little, for chest images lie close together. What costs is
looking at pixels, so an image is looked at beside its few nearest only.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np

# Hash: DCT frequencies 1 to 9 each way of a 32 px picture. Frequency 0 holds shading and borders.
_HASH_SIDE = 32
_FREQUENCIES = slice(1, 10)
_HASH_LENGTH = 81
_NEIGHBOURHOOD = (9, 9)
_NOISE = 4.0  # grey levels: structure fainter than this is not brought up to full contrast
# Shifted, re-encoded or rescaled copies have a cosine of 0.89 or more, most 3 % crops 0.82.
_COSINE = 0.82
_PARTNERS = 8  # most proposals of an image with later ones: look-alikes stay affordable
_BLOCK_ROWS = 256

_AS_IS = 2
_FLIPS = (_AS_IS, 1, 0, -1)  # the codes of cv2.flip: left-right, upside down, both

# Registration from coarse to fine, sides in px.
_COARSE, _MIDDLE, _FINE = 32, 64, 128
_TEXTURE_SIGMA = 2.5
_CONTRAST_SIGMA = 5.0
_GRAIN = 2.0  # grey levels: the texture of an empty background stays near zero
_ECC_STOP = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 20, 1e-3)
_MAX_STRETCH = 0.3  # of the area: more than this is not a copy but a false alignment
# A block is compared where it has texture, and a pair where enough blocks can be compared.
_BLOCK_SIDE = 16
_FLAT = 0.05
_COMPARABLE = 0.375
_SHARE = 0.7  # of the blocks must agree
_WORTH_REFINING = 0.5
# Measured on 2,480 radiographs: true copies reach 0.70, different patients at most 0.39, and two
# exposures of one patient mostly 0.55, once 0.69. Neighbouring CT slices reach 0.7.
_SAME = 0.62
# A store below 128 px has less texture, and chance agrees more.
_SAME_SMALL = 0.75
_PAIRS_A_ROUND = 2048
_IMAGES_A_READ = 64


@dataclass(frozen=True)
class Pair:
    """Two images that show the same picture.

    Attributes:
        first: row number of one image.
        second: row number of the other, larger than `first`.
        similarity: correlation of the aligned textures that 70 % of the picture reach, 0.62 to 1.
        flipped: whether one is a mirror image of the other (left-right, upside down or both).
    """

    first: int
    second: int
    similarity: float
    flipped: bool


@dataclass(frozen=True)
class _Views:
    coarse: np.ndarray
    middle: np.ndarray
    fine: np.ndarray


def perceptual_hash(image: np.ndarray) -> bytes:
    """Describe a picture in 81 bytes that tone curves, scaling and small shifts hardly change.

    The discrete cosine transform of a thumbnail (as pHash, Zauner 2010) whose local contrast was
    evened out, as signed bytes relative to the largest coefficient.

    Args:
        image: canonical image, uint8 (height, width).

    Returns:
        81 bytes: int8 (9, 9), vertical by horizontal frequency; all zero for an even picture.
    """
    contrast = _even_contrast(_thumbnail(image))
    coefficients = cv2.dct(contrast)[_FREQUENCIES, _FREQUENCIES]
    largest = float(np.abs(coefficients).max())
    scale = 127.0 / largest if largest > 0 else 0.0
    return np.rint(coefficients * scale).astype(np.int8).tobytes()


def near_duplicates(
    hashes: Sequence[bytes], images: Callable[[np.ndarray], np.ndarray], fresh: int = 0
) -> list[Pair]:
    """Find the images that show the same picture.

    Found are copies that were re-encoded, rescaled, flipped, written on or changed in tone, and
    copies shifted, cropped or turned by a few per cent. Look-alikes of different patients are not.

    Args:
        hashes: one `perceptual_hash` a row.
        images: gives the stored squares, uint8 (n, side, side), of n row numbers (int64). Called
            from the calling thread with at most 64 rows at a time.
        fresh: rows before this one were compared with each other earlier and are not again.

    Returns:
        The pairs by `first` and `second`. Of many copies of one picture each is paired with its
        eight nearest later ones at most, which still connects them all.
    """
    best: dict[tuple[int, int], Pair] = {}
    proposals = _propose(_directions(hashes), fresh)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(proposals), _PAIRS_A_ROUND):
            for pair in _verify(proposals[start : start + _PAIRS_A_ROUND], images, pool):
                key = (pair.first, pair.second)
                if key not in best or best[key].similarity < pair.similarity:
                    best[key] = pair
    return [best[key] for key in sorted(best)]


def _thumbnail(image: np.ndarray) -> np.ndarray:
    # Halving first costs a third of one large area resize.
    while min(image.shape) >= 4 * _HASH_SIDE:
        image = cv2.pyrDown(image)
    side = (_HASH_SIDE, _HASH_SIDE)
    return cv2.resize(image, side, interpolation=cv2.INTER_AREA).astype(np.float32)


def _even_contrast(thumbnail: np.ndarray) -> np.ndarray:
    border = cv2.BORDER_REFLECT
    change = thumbnail - cv2.blur(thumbnail, _NEIGHBOURHOOD, borderType=border)
    power = cv2.blur(change * change, _NEIGHBOURHOOD, borderType=border)
    # The running sums of `blur` can end a hair below zero.
    return change / (np.sqrt(np.maximum(power, 0)) + _NOISE)


def _directions(hashes: Sequence[bytes]) -> np.ndarray:
    numbers = np.frombuffer(b"".join(hashes), np.int8).reshape(len(hashes), _HASH_LENGTH)
    vectors = numbers.astype(np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1.0)


def _signs(flip: int) -> np.ndarray:
    """What flipping a picture does to its hash: odd frequencies along the flip change sign."""
    odd = np.where(np.arange(_FREQUENCIES.start, _FREQUENCIES.stop) % 2, -1, 1).astype(np.float32)
    even = np.ones_like(odd)
    down, across = (odd if flip in (0, -1) else even), (odd if flip in (1, -1) else even)
    return np.outer(down, across).ravel()


def _propose(directions: np.ndarray, fresh: int) -> np.ndarray:
    """Rows (first, second, flip), int64, of pairs whose hashes point the same way."""
    blocks = [np.empty((0, 3), np.int64)]
    for start in range(0, len(directions), _BLOCK_ROWS):
        blocks.append(_propose_block(directions, start, max(start, fresh)))
    return np.concatenate(blocks)


def _propose_block(directions: np.ndarray, start: int, others: int) -> np.ndarray:
    block, rest = directions[start : start + _BLOCK_ROWS], directions[others:]
    found, cosines = [], []
    for flip in _FLIPS:
        cosine = (block * _signs(flip)) @ rest.T
        first, second = np.divmod(np.flatnonzero(cosine >= _COSINE), len(rest))
        ahead = second + others > first + start
        first, second = first[ahead], second[ahead]
        found.append(np.stack([first + start, second + others, np.full(len(first), flip)], axis=1))
        cosines.append(cosine[first, second])
    pairs, scores = np.concatenate(found), np.concatenate(cosines)
    order = np.lexsort((-scores, pairs[:, 0]))
    pairs = pairs[order]
    rank = np.arange(len(pairs)) - np.searchsorted(pairs[:, 0], pairs[:, 0])
    return pairs[rank < _PARTNERS]


def _verify(
    proposals: np.ndarray, images: Callable[[np.ndarray], np.ndarray], pool: ThreadPoolExecutor
) -> Iterator[Pair]:
    rows = np.unique(proposals[:, :2])
    views: dict[int, _Views] = {}
    least = _SAME
    for start in range(0, len(rows), _IMAGES_A_READ):
        part = rows[start : start + _IMAGES_A_READ]
        squares = images(part)
        least = _SAME if squares.shape[1] >= _FINE else _SAME_SMALL
        views.update(zip(part.tolist(), pool.map(_look, squares), strict=True))

    def compare(proposal: np.ndarray) -> float:
        first, second, flip = proposal.tolist()
        return _similarity(_flipped(views[first], flip), views[second])

    for proposal, similarity in zip(proposals, pool.map(compare, proposals), strict=True):
        if similarity >= least:
            first, second, flip = proposal.tolist()
            yield Pair(first, second, similarity, flip != _AS_IS)


def _look(square: np.ndarray) -> _Views:
    fine = _shrink(square, _FINE)
    return _Views(_texture(_shrink(fine, _COARSE)), _texture(_shrink(fine, _MIDDLE)), fine)


def _shrink(square: np.ndarray, side: int) -> np.ndarray:
    kind = cv2.INTER_AREA if len(square) > side else cv2.INTER_LINEAR
    return cv2.resize(square, (side, side), interpolation=kind)


def _texture(square: np.ndarray) -> np.ndarray:
    pixels = square.astype(np.float32)
    detail = pixels - cv2.GaussianBlur(pixels, (0, 0), _TEXTURE_SIGMA)
    contrast = np.sqrt(cv2.GaussianBlur(detail * detail, (0, 0), _CONTRAST_SIGMA))
    # Clipped, so that the hard edge of a letter or a border does not outweigh the anatomy.
    return np.clip(detail / (contrast + _GRAIN), -3, 3)


def _flipped(views: _Views, flip: int) -> _Views:
    if flip == _AS_IS:
        return views
    return _Views(*(cv2.flip(view, flip) for view in (views.coarse, views.middle, views.fine)))


def _similarity(first: _Views, second: _Views) -> float:
    """Agreement of two aligned pictures, -1 to 1; 0 where no alignment makes sense."""
    warp = _align(first.coarse, second.coarse, np.eye(2, 3, dtype=np.float32))
    if warp is None:
        return 0.0
    if _agreement(first.middle, second.middle, _enlarge(warp, _MIDDLE)) < _WORTH_REFINING:
        return 0.0
    one, other = _texture(first.fine), _texture(second.fine)
    warp = _align(one, other, _enlarge(warp, _FINE))
    return 0.0 if warp is None else _agreement(one, other, warp)


def _align(moving: np.ndarray, fixed: np.ndarray, start: np.ndarray) -> np.ndarray | None:
    """The affine map, float32 (2, 3), from places in `fixed` to places in `moving`."""
    try:
        # Evangelidis and Psarakis 2008: maximises the correlation itself.
        _, warp = cv2.findTransformECC(fixed, moving, start.copy(), cv2.MOTION_AFFINE, _ECC_STOP)
    except cv2.error:
        # This is how OpenCV says that the pictures have nothing in common.
        return None
    stretch = float(np.linalg.det(warp[:, :2]))
    return warp if abs(stretch - 1) <= _MAX_STRETCH else None


def _enlarge(warp: np.ndarray, side: int) -> np.ndarray:
    """The same map, found at the coarse side, for pictures of another side."""
    scale = side / _COARSE
    # Pixel centres lie half a pixel in: without the correction a stretch would shift the picture.
    centre = (scale - 1) / 2
    moved = warp.copy()
    moved[:, 2] = scale * warp[:, 2] + centre - warp[:, :2] @ np.full(2, centre)
    return moved


def _agreement(moving: np.ndarray, fixed: np.ndarray, warp: np.ndarray) -> float:
    """The correlation that 70 % of the blocks of two textures reach; 0 if too few compare.

    So neither a text on a copy hides it, nor does a common frame make two pictures one.
    """
    moved = cv2.warpAffine(
        moving,
        warp,
        (len(fixed), len(fixed)),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderValue=(np.nan,),
    )
    inside = ~np.isnan(moved)
    weight, a, b = _blocks(inside), _blocks(np.where(inside, moved, 0)), _blocks(fixed * inside)
    pixels = np.maximum(weight.sum(axis=1), 1)
    a = (a - a.sum(axis=1, keepdims=True) / pixels[:, None]) * weight
    b = (b - b.sum(axis=1, keepdims=True) / pixels[:, None]) * weight
    power_a, power_b = (a * a).sum(axis=1), (b * b).sum(axis=1)
    usable = (pixels > weight.shape[1] / 2) & (np.maximum(power_a, power_b) > _FLAT * pixels)
    if usable.mean() < _COMPARABLE:
        return 0.0
    correlation = (a * b).sum(axis=1) / np.sqrt(np.maximum(power_a * power_b, 1e-6))
    return min(float(np.quantile(correlation[usable], 1 - _SHARE)), 1.0)


def _blocks(square: np.ndarray) -> np.ndarray:
    """Cut (side, side) into float32 (blocks, pixels of a block)."""
    count = len(square) // _BLOCK_SIDE
    cut = square.reshape(count, _BLOCK_SIDE, count, _BLOCK_SIDE).swapaxes(1, 2)
    return cut.reshape(count * count, _BLOCK_SIDE * _BLOCK_SIDE).astype(np.float32)
