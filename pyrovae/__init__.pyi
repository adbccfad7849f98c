from .data.batches import Batches as Batches
from .data.binarise import binarise as binarise
from .data.dataset import Dataset as Dataset
from .data.load import load as load
from .errors import InputError as InputError
from .history import History as History
from .imputation import impute as impute
from .imputed import Imputation as Imputation
from .infer.evaluate import evaluate as evaluate
from .infer.importance import importance_sample as importance_sample
from .infer.svi import SVI as SVI
from .likelihoods import Likelihood as Likelihood
from .likelihoods import Mixed as Mixed
from .likelihoods import register as register
from .models.autoencoder import Autoencoder as Autoencoder
from .models.conditional import ConditionalVAE as ConditionalVAE
from .models.hierarchical import HierarchicalVAE as HierarchicalVAE
from .models.mixture import MixtureVAE as MixtureVAE
from .models.pca import ProbabilisticPCA as ProbabilisticPCA
from .models.semi_supervised import SemiSupervisedVAE as SemiSupervisedVAE
from .models.vae import VAE as VAE
from .train import fit as fit

__version__: str
