"""Where and by how many processes training is computed: devices, workers, torchrun, memory."""
