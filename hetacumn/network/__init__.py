"""The encoder, the decoder, the two tasks of HetACUMN, and their training.

Public interface: :class:`~hetacumn.network.model.HetACUMN` implements the two tasks;
:func:`~hetacumn.network.training.train_stack` trains a method on a stack with the settings of
:class:`~hetacumn.network.config.TrainConfig`; :func:`~hetacumn.network.model_files.load_model` reads a trained network.
"""
