"""The names of latentbank by task, for type checkers. `__init__.py` imports each when it is first used."""

# Models
from latentbank.models.language.model import load_language_model as load_language_model
from latentbank.models.visual import load_visual_model as load_visual_model

# Filling a bank
from latentbank.ingest.banks import create_bank as create_bank
from latentbank.ingest.filling import fill as fill
from latentbank.ingest.filling import plan as plan

# Banks
from latentbank.bank.bank import Bank as Bank
from latentbank.bank.opening import delete_bank as delete_bank
from latentbank.bank.opening import list_banks as list_banks
from latentbank.bank.opening import open_bank as open_bank
from latentbank.bank.opening import use_bank as use_bank
from latentbank.bank.settings import load_settings as load_settings
from latentbank.bank.where import Where as Where

# Moving banks
from latentbank.bank.transfer.copy import copy_bank as copy_bank
from latentbank.bank.transfer.export import export_bank as export_bank
from latentbank.bank.transfer.load import import_bank as import_bank

# Reading
from latentbank.query.reading.audio import read_audio as read_audio
from latentbank.models.vision.sources import find_images as find_images
from latentbank.query.reading.reading import Reading as Reading
from latentbank.query.reading.text import read_hidden as read_hidden
from latentbank.query.reading.text import read_text as read_text
from latentbank.query.reading.video import read_video as read_video
from latentbank.query.reading.visual import read_image as read_image
from latentbank.query.reading.visual import read_images as read_images

# Lenses
from latentbank.query.lenses.base import LensOptions as LensOptions
from latentbank.query.lenses.embedding import EmbeddingLens as EmbeddingLens
from latentbank.query.lenses.latent import LatentLens as LatentLens
from latentbank.query.lenses.logit import LogitLens as LogitLens
from latentbank.query.lenses.registry import lenses_of as lenses_of

# Showing readings
from latentbank.query.output.pictures import save_reading as save_reading
from latentbank.query.output.plots import save_plot as save_plot
from latentbank.query.web.file import save_html as save_html

# Measuring
from latentbank.query.evaluation.evaluate import evaluate as evaluate
from latentbank.query.lenses.centring import load_means as load_means
from latentbank.query.lenses.centring import save_means as save_means
from latentbank.query.reading.calibrate import measure_means as measure_means

# Training
from latentbank.models.training.train import train_projector as train_projector

# Errors
from latentbank.errors import BankNotFound as BankNotFound
from latentbank.errors import BankUnavailable as BankUnavailable
from latentbank.errors import LatentBankError as LatentBankError

__version__: str
