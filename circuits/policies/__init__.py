"""KV-cache policies, sparse attention on a pretrained model, and other softmaxes: interventions on M for all rows."""
