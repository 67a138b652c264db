"""A task of the user's own, for metadist finetune --task."""
