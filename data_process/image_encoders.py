"""Image models as encoders: CLIP, SigLIP, DINOv2, ViT, ConvNeXt and whatever else transformers opens."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

from data_process.encoders import torch_dtype


class ImageEncoder:
    """The image side of CLIP and its kin, in the space that their texts share; of others the pooled features.

    A model whose checkpoint brings no pooler gets random weights there from transformers: then it is the mean of the
    features of all patches instead.
    """

    def __init__(self, model: str, device: torch.device, dtype: str = "auto"):
        self.device = device
        try:
            self.processor = AutoImageProcessor.from_pretrained(model)
        except ImportError as error:  # weights of timm need that package
            raise ValueError(f"--model {model} needs a package that is absent: {str(error).strip()}") from error
        except (OSError, ValueError) as error:
            raise ValueError(
                f"--model {model} does not say how to prepare pictures, so it is no image encoder"
            ) from error
        self.model, loading = AutoModel.from_pretrained(
            model, dtype=torch_dtype(dtype, device), output_loading_info=True
        )
        self.model.eval().to(device)
        self.has_pooler = not any("pooler" in name or "head" in name for name in loading["missing_keys"])

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], pictures: Sequence[Image.Image]) -> np.ndarray:
        """(B, D) float32; the texts do not count."""
        inputs = self.processor(images=list(pictures), return_tensors="pt").to(self.device, self.model.dtype)
        if hasattr(self.model, "get_image_features"):
            found = self.model.get_image_features(pixel_values=inputs["pixel_values"])
        else:
            found = self.model(pixel_values=inputs["pixel_values"])
        if not isinstance(found, torch.Tensor):
            pooled = getattr(found, "pooler_output", None)
            found = pooled if pooled is not None and self.has_pooler else found.last_hidden_state
            if pooled is None or not self.has_pooler:  # (B, T, D) of a transformer, (B, D, H, W) of a convolution
                found = found.mean((2, 3)) if found.ndim == 4 else found.mean(1)
        return found.flatten(1).float().cpu().numpy()

    def free_memory(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
